"""Beginning with the weights of a forecaster: they are handed on, and nobody who judges has been seen."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ehrseq.config.load import load_settings
from ehrseq.errors import ConfigError, DataError, EhrseqError
from ehrseq.workflows import experiment, prepare
from ehrseq.workflows.build import build_model
from ehrseq.workflows.pretrained import find_start
from ehrseq.workflows.runs import open_run, train_key

Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    "source.n_subjects=400",
    "explain=none",
    "tracking=none",
    "evaluate.replicates=0",
    "evaluate.figures=false",
    "trainer.max_epochs=2",
    "model.encoder.hidden_size=16",
)
FORECAST = ("task=forecast", "outputs=steps", "model/pooling=last")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command) -> Path:
    """A folder with a forecaster in `first`."""
    folder = tmp_path_factory.mktemp("pretraining")
    done = ehrseq("train", *WORDS, *FORECAST, "paths.runs=first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def run_of(work: Path, name: str) -> Path:
    return next((work / name).iterdir())


def test_training_begins_with_the_weights_of_the_run(work: Path, ehrseq: Command) -> None:
    first = run_of(work, "first")
    # So small a step that the weights stay where they began.
    still = ("optim.optimizer.lr=1e-9", "optim.optimizer.weight_decay=0", "optim.weight_averaging=null")
    tuned = ("train", *WORDS, *still, "paths.runs=tuned")
    done = ehrseq(*tuned, f"pretrained={first}", cwd=work)
    assert done.returncode == 0, done.stderr
    assert f"tensors of embedding and encoder from {first}" in done.stderr
    done = ehrseq("train", *WORDS, *still, "paths.runs=fresh", cwd=work)
    assert done.returncode == 0, done.stderr
    there, here, fresh = (
        load_file(run_of(work, name) / "train" / "model.safetensors") for name in ("first", "tuned", "fresh")
    )
    names = [name for name in here if name.startswith(("embedding.", "encoder."))]
    assert len(names) >= 6
    for name in names:
        torch.testing.assert_close(here[name], there[name], rtol=0, atol=1e-6)
    assert any((here[name] - fresh[name]).abs().max() > 0.01 for name in names)
    assert here["head.layers.1.weight"].shape != there["head.layers.1.weight"].shape
    # Another beginning is another run; the same is found done, and needs the first no more to predict.
    key = json.loads((run_of(work, "tuned") / "train" / "manifest.json").read_text())["key"]
    assert key["pretrained"]["weights"] == open_run(first).weights_digest
    done = ehrseq(*tuned, f"pretrained={first}", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stderr
    assert len(list((work / "tuned").iterdir())) == 1
    done = ehrseq("predict", "source.n_subjects=400", f"run={run_of(work, 'tuned')}", cwd=work)
    assert done.returncode == 0, done.stderr


REFUSED = [
    (["split.seed=7"], "took part in its training"),
    (["split.folds=4", "split.fold=2"], "took part in its training"),
    (["model.encoder.hidden_size=32"], "model.encoder.hidden_size is 16 there and 32 here; take the same"),
    (["model=gru"], "model.encoder._target_ is ehrseq.nn.LSTMEncoder there and ehrseq.nn.GRUEncoder here"),
    (["model.embedding.projection=8"], "model.embedding.projection is 32 there and 8 here"),
    (["representation.max_features=9"], "feature 1 is DX//diabetes there and"),
    (["paths.data=elsewhere"], "is not in paths.data=elsewhere, so that it cannot be shown"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_may_not_be_begun_with_is_refused(
    words: list[str], message: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    first = run_of(work, "first")
    with pytest.raises(EhrseqError) as caught:
        experiment.run(load_settings([*WORDS, *words, f"pretrained={first}", "paths.runs=refused"]))
    assert str(caught.value).startswith(f"pretrained={first}: ")
    assert message in str(caught.value)
    assert not (work / "refused").exists() or not list((work / "refused").glob("*/train"))


def test_a_refusal_is_one_line(work: Path, ehrseq: Command) -> None:
    first = run_of(work, "first")
    done = ehrseq("train", *WORDS, "split.seed=7", f"pretrained={first}", "paths.runs=refused", cwd=work)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert f"pretrained={first}: " in errors[0]
    assert "Traceback" not in done.stderr


def test_whom_the_weights_have_seen_is_handed_down(
    work: Path, ehrseq: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    first = run_of(work, "first")
    second = ("task.target.horizon=2", f"pretrained={first}", "paths.runs=second")
    done = ehrseq("train", *WORDS, *FORECAST, *second, cwd=work)
    assert done.returncode == 0, done.stderr
    stores = [open_run(run).key["store"] for run in (run_of(work, "second"), first)]
    assert open_run(run_of(work, "second")).stores() == stores
    settings = load_settings([*WORDS, f"pretrained={run_of(work, 'second')}"])
    prepared = prepare.run(settings)
    assert train_key(settings, prepared)["pretrained"]["stores"] == stores
    assert find_start(settings, prepared) is not None
    # The second run's own store is there, but of the first nothing can be shown any more.
    shutil.copytree(work / ".ehrseq", work / "copy")
    shutil.rmtree(next((work / "copy" / "stores").glob(f"*-{stores[1]}")))
    moved = load_settings([*WORDS, f"pretrained={run_of(work, 'second')}", "paths.data=copy"])
    with pytest.raises(DataError, match=f"its store {stores[1]} is not in paths.data=copy"):
        find_start(moved, prepare.run(moved))


def test_features_must_have_the_same_names_in_the_same_order(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    settings = load_settings([*WORDS, f"pretrained={run_of(work, 'first')}"])
    prepared = prepare.run(settings)
    start, store = find_start(settings, prepared), prepared.open()
    assert start is not None
    sizes = len(store.codes), len(store.statics)
    model = build_model(settings.model, settings.task.target, settings.loss, *sizes)
    given = start.hand_on(model, store.codes, store.statics)
    assert given == len(model.embedding.state_dict()) + len(model.encoder.state_dict())
    swapped = (store.codes[1], store.codes[0], *store.codes[2:])
    with pytest.raises(ConfigError, match=rf"feature 1 is {store.codes[0]} there and {store.codes[1]} here"):
        start.hand_on(model, swapped, store.statics)
    with pytest.raises(ConfigError, match=r"static feature \d+ is .* there and none here"):
        start.hand_on(model, store.codes, store.statics[:-1])
