"""A network averaged with trees: each is what it is alone, the prediction is their mean, and both are kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, RunError
from ehrseq.workflows import experiment, predict, prepare
from ehrseq.workflows.learn import member_folder
from ehrseq.workflows.member_folds import MemberFolds
from ehrseq.workflows.runs import open_run

Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    *("source.n_subjects=400", "explain=none", "tracking=none", "evaluate.replicates=0", "evaluate.figures=false"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu"),
)
FAST = ("booster.learning_rate=0.1", "booster.patience=20", "booster.threads=2", "summary.windows_hours=[12]")
BLEND = ("blend=trees", "blend.weight=0.3", *(f"blend.{word}" for word in FAST))
TREES = ("model=gbm", *(f"model.{word}" for word in FAST))


def run(*words: str, at: Path) -> tuple[Settings, Path]:
    """One experiment: its settings and its folder."""
    settings = load_settings([*WORDS, f"paths.data={at / 'data'}", f"paths.runs={at / 'runs'}", *words])
    return settings, experiment.run(settings).folder


def predictions(folder: Path, column: str = "probability") -> np.ndarray:
    return pl.read_parquet(folder / "evaluate" / "predictions.parquet").sort("subject_id")[column].to_numpy()


@pytest.mark.parametrize("members", [(), ("members=3", "members_by=folds")])
def test_it_predicts_the_weighted_mean_of_what_both_are_alone(members: tuple[str, ...], tmp_path: Path) -> None:
    alone, trees, both = (predictions(run(*words, *members, at=tmp_path)[1]) for words in ((), TREES, BLEND))
    np.testing.assert_allclose(both, 0.7 * alone + 0.3 * trees, atol=1e-7)
    assert np.abs(alone - trees).max() > 1e-3


def test_without_lightgbm_it_ends_before_the_network_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"blend=trees\) need LightGBM .*; install the extra: pip install"):
        run(*BLEND, at=tmp_path)
    assert "first step done" not in capsys.readouterr().err
    monkeypatch.undo()
    run(*BLEND, at=tmp_path)
    assert "first step done" in capsys.readouterr().err


def test_of_a_number_the_mean_is_taken_in_its_unit(test_data: Path, tmp_path: Path) -> None:
    words = ["source=meds", f"source.path={test_data / 'mimic-iv-demo-meds'}", "task=length_of_stay"]
    words += ["split.method=source", "representation=timepoints"]
    grown = [(*given, f"{key}.booster.min_child_samples=5") for given, key in ((TREES, "model"), (BLEND, "blend"))]
    paths = f"paths.data={tmp_path}", f"paths.runs={tmp_path / 'runs'}"
    settings = [load_settings([*WORDS[1:], *words, *paths, *given]) for given in ((), *grown)]
    alone, trees, both = (predictions(experiment.run(each).folder, "prediction") for each in settings)
    np.testing.assert_allclose(both, 0.7 * alone + 0.3 * trees, rtol=1e-6)


def test_an_ensemble_over_folds_is_kept_whole_and_predicts_nobody_that_its_member_has_seen(tmp_path: Path) -> None:
    settings, folder = run(*BLEND, "members=3", "members_by=folds", "recalibration=platt", at=tmp_path)
    trained = open_run(folder)
    for number in range(3):
        place = member_folder(folder / "train", number)
        assert {"model.safetensors", "trees.txt", "importance.csv"} <= {path.name for path in place.iterdir()}
    store = prepare.run(settings).open()
    tuning = store.samples("tuning")
    fold = MemberFolds(3, settings.split.seed).of_samples(store)[tuning]
    apart = np.stack([trained._member(number).score(store, tuning, settings) for number in range(3)])
    told = trained.scorer().score(store, tuning, settings)
    np.testing.assert_allclose(told, apart[fold, np.arange(len(tuning))], atol=1e-6)
    # Opened again, it predicts what it was scored on.
    predict.run(settings, trained, tmp_path / "told.parquet")
    table = pl.read_parquet(folder / "evaluate" / "predictions.parquet").sort("subject_id")
    again = pl.read_parquet(tmp_path / "told.parquet").filter(pl.col("subject_id").is_in(table["subject_id"].to_list()))
    np.testing.assert_allclose(again.sort("subject_id")["probability"], table["probability"], atol=1e-6)
    # Trees that were changed since are as little to be trusted as changed weights.
    changed = member_folder(folder / "train", 2) / "trees.txt"
    changed.write_text(changed.read_text().replace("leaf_value=", "leaf_value=1", 1))
    with pytest.raises(RunError, match=r"member_3/trees.txt is not what the training wrote"):
        open_run(folder)


def test_by_the_command_it_is_explained_as_the_network_and_the_control_learns_nothing(
    tmp_path: Path, ehrseq: Command
) -> None:
    words = ("source.n_subjects=600", *BLEND, "trainer.max_epochs=2", "trainer.accelerator=cpu")
    words += ("evaluate.replicates=0", "evaluate.figures=false")
    few = ("explain.samples=16", "explain.judged=8", "explain.timelines=0", "audit.shuffled_labels=true")
    done = ehrseq("train", *words, *few, "paths.runs=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "explain: of the blend the network is explained, not the trees" in done.stderr
    again = ehrseq("train", *words, "explain=none", "paths.runs=two", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    one, two = (next((tmp_path / name).iterdir()) for name in ("one", "two"))
    for name in ("model.safetensors", "trees.txt"):
        assert (one / "train" / name).read_bytes() == (two / "train" / name).read_bytes()
    for name in ("model_card.md", "tripod_ai.md"):
        assert "lstm, averaged with trees (weight 0.3)" in (one / "report" / name).read_text()
    control = json.loads((one / "audit" / "audit.json").read_text())["control/shuffled_labels_auroc"]
    # 120 held-out histories, a third of them positive: a standard error of 0.056; four of them.
    assert control["value"] == pytest.approx(0.5, abs=0.22)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task=time_to_death"],
            "blend=trees learns binary, multiclass, regression targets, not survival; use blend=none",
        ),
        (["model=gbm"], "blend=trees mixes trees into a network, and model=gbm is trees already; use blend=none"),
        (["blend.weight=0"], "blend.weight"),
        (["blend.weight=1"], "blend.weight"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(["blend=trees", *words])


def test_the_experiment_is_an_ensemble_of_blends_on_the_task_of_the_single_network() -> None:
    names = "physionet2012", "physionet2012_ensemble"
    single, several = (load_settings([f"experiment={name}", "source.path=there"]) for name in names)
    for name in ("source", "task", "split", "representation", "preprocess", "recalibration"):
        assert getattr(several, name) == getattr(single, name)
    assert (several.members, several.members_by) == (5, "folds")
    # The network has to know something that trees do not: it learns from the outcomes, too.
    assert single.teacher is not None
    assert several.teacher is not None
    assert (single.blend, single.teacher.weight) == (None, 1)
    assert several.blend is not None
    assert several.teacher.weight < 1
