"""That it learns what is there, nothing that is not, and the same every time."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq.audit.shuffled import permute_labels
from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.errors import RunError, TrainingError
from ehrseq.files import read_json
from ehrseq.store import Store
from ehrseq.training.schedule import cosine_with_warmup
from ehrseq.workflows import experiment, prepare
from ehrseq.workflows.learn import learn
from ehrseq.workflows.runs import open_run
from ehrseq.workflows.scorers import NetworkScorer


def settings_for(folder: Path, *words: str) -> Settings:
    base = [f"paths.data={folder / 'data'}", f"paths.runs={folder / 'runs'}", "tracking=none", "trainer=cpu"]
    return load_settings([*base, "explain=none", "evaluate.figures=false", "trainer.progress=false", *words])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Store]:
    settings = settings_for(tmp_path_factory.mktemp("small"), "source.n_subjects=600", "trainer.max_epochs=2")
    return settings, prepare.run(settings).open()


def test_learns_the_rule_but_not_permuted_labels(tmp_path: Path) -> None:
    words = ("source.n_subjects=4000", "trainer.max_epochs=5", "audit.shuffled_labels=true", "evaluate.replicates=50")
    result = experiment.run(settings_for(tmp_path, *words))
    value = {name: item["value"] for name, item in result.metrics.items()}
    auroc, ceiling = value["held_out/auroc"], value["held_out/planted_rule_auroc"]
    assert auroc is not None
    assert ceiling is not None
    assert 0.80 < auroc < ceiling
    control = value["control/shuffled_labels_auroc"]
    # 800 held-out histories, 230 of them positive: a standard error of 0.023; four of them.
    assert control == pytest.approx(0.5, abs=0.092)


def test_the_same_seed_gives_the_same_bytes(small: tuple[Settings, Store], tmp_path: Path) -> None:
    settings, store = small
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model, _ = learn(settings.model_copy(update={"seed": seed}), store, tmp_path / name, lambda *_: None)
        weights.append(b"".join(value.numpy().tobytes() for _, value in sorted(model.state_dict().items())))
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "source.n_subjects=600", "trainer.max_epochs=6", "evaluate.split=tuning")
    result = experiment.run(settings)
    manifest = read_json(result.folder / "train" / "manifest.json")
    lines = (result.folder / "train" / "history.csv").read_text().splitlines()
    columns = lines[0].split(",")
    losses = [float(line.split(",")[columns.index("tuning/loss")]) for line in lines[1:]]
    assert manifest["best_epoch"] == int(np.argmin(losses)) + 1
    # The kept weights give the very figure that was logged in that epoch.
    loss = json.loads((result.folder / "evaluate" / "metrics.json").read_text())["tuning/log_loss"]["value"]
    assert loss == pytest.approx(min(losses), abs=1e-6)
    assert open_run(result.folder).settings.trainer.max_epochs == 6


def test_the_last_epoch_is_kept_where_asked(tmp_path: Path) -> None:
    """However much better another was by the monitor, and without an end before all are trained."""
    words = ["source.n_subjects=600", "trainer.max_epochs=8", "trainer.patience=1", "optim.optimizer.lr=0.02"]
    words += ["model.summary=null", "model.head.dropout=0", "model.hidden_dropout=0", "model.embedding.dropout=0"]
    words += ["model.embedding.input_dropout=0", "optim.weight_averaging=null"]  # soon learned by heart
    result = experiment.run(settings_for(tmp_path, *words, "trainer.keep=last", "evaluate.split=tuning"))
    manifest = read_json(result.folder / "train" / "manifest.json")
    history = pl.read_csv(result.folder / "train" / "history.csv")
    losses = history["tuning/loss"]
    assert len(losses) == manifest["best_epoch"] == manifest["epochs"] == 8
    assert losses[-1] > 1.2 * min(losses)
    loss = json.loads((result.folder / "evaluate" / "metrics.json").read_text())["tuning/log_loss"]["value"]
    assert loss == pytest.approx(losses[-1], abs=1e-6)
    assert "weights of the last epoch, 8" in (result.folder / "report" / "tripod_ai.md").read_text()


def test_a_loss_that_is_no_number_ends_in_one_message(small: tuple[Settings, Store], tmp_path: Path) -> None:
    _, store = small
    words = (
        "source.n_subjects=600",
        "optim.optimizer.lr=1e30",
        "trainer.gradient_clip=null",
        "optim.weight_averaging=null",
    )
    with pytest.raises(TrainingError, match=r"training loss became \w+ in epoch \d+; lower optim\.optimizer\.lr"):
        learn(settings_for(tmp_path, *words), store, tmp_path, lambda *_: None)


def test_permuted_labels_keep_each_splits_prevalence(small: tuple[Settings, Store]) -> None:
    arrays = small[1].arrays
    permuted = permute_labels(arrays, seed=1)
    for split in (0, 1, 2):
        rows = arrays.sample_split == split
        assert permuted.sample_label[rows].sum() == arrays.sample_label[rows].sum()
    assert (permuted.sample_label != arrays.sample_label).any()
    assert permute_labels(arrays, seed=1).sample_label.tolist() == permuted.sample_label.tolist()


def test_schedule_against_its_definition() -> None:
    factor = cosine_with_warmup(steps=110, warmup=10)
    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [factor(step) for step in (10, 35, 60, 110)] == pytest.approx([1, (1 + 2**-0.5) / 2, 0.5, 0], abs=1e-9)
    assert cosine_with_warmup(110, 10, decay=False)(90) == 1.0


def test_an_ensemble_averages_its_members_and_the_first_is_the_one_trained_alone(tmp_path: Path) -> None:
    words = ["source.n_subjects=300", "trainer.max_epochs=2", "explain=none", "tracking=none", "evaluate.replicates=0"]
    words += [f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}"]
    alone, together = (load_settings([*words, f"members={members}"]) for members in (1, 3))
    runs = [open_run(experiment.run(settings).folder) for settings in (alone, together)]
    store = prepare.run(alone).open()
    samples = store.samples("held_out")
    scored = [run.scorer().score(store, samples, alone) for run in runs]
    members = [runs[1].model(number) for number in range(3)]
    own = [NetworkScorer(model, alone.representation, "last").score(store, samples, alone) for model in members]
    np.testing.assert_allclose(own[0], scored[0], atol=1e-12)
    np.testing.assert_allclose(np.mean(own, axis=0), scored[1], atol=1e-12)
    assert np.abs(own[0] - own[1]).max() > 1e-3
    table = pl.read_parquet(runs[1].folder / "evaluate" / "predictions.parquet")
    np.testing.assert_allclose(table["probability"], scored[1][:, 0], atol=1e-12)
    np.testing.assert_allclose(table["spread"], np.std(own, axis=0, ddof=1)[:, 0], atol=1e-12)
    weights = runs[1].folder / "train" / "member_2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"member_2/model\.safetensors is not what the training wrote"):
        open_run(runs[1].folder)
