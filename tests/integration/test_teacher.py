"""A network that trees teach: what they tell is told of subjects they have not seen, and nothing else changes."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings, Teacher
from ehrseq.data.summary import summarise
from ehrseq.errors import ConfigError
from ehrseq.nn.objectives.categories import BinaryObjective
from ehrseq.store import Store
from ehrseq.workflows import prepare
from ehrseq.workflows.member_folds import MemberFolds
from ehrseq.workflows.teacher import teach

Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    *("source.n_subjects=600", "teacher=trees", "teacher.folds=3", "teacher.repeats=2", "teacher.weight=0.6"),
    *("teacher.booster.learning_rate=0.1", "teacher.booster.patience=20", "teacher.booster.threads=2"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "evaluate.replicates=0", "evaluate.figures=false"),
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings([*WORDS, "explain=none", f"paths.data={tmp_path_factory.mktemp('teacher')}"])


@pytest.fixture(scope="module")
def store(settings: Settings) -> Store:
    return prepare.run(settings).open()


def test_what_trees_tell_is_lightgbm_grown_on_other_subjects(settings: Settings, store: Store, tmp_path: Path) -> None:
    teacher = settings.teacher
    assert teacher is not None
    train, tuning = store.samples("train"), store.samples("tuning")
    outcome = store.arrays.sample_label[:, 0]
    read, watched = (summarise(store, part, teacher.summary)[0] for part in (train, tuning))
    told = np.zeros((2, len(train)))
    for repeat in range(2):
        fold = MemberFolds(3, settings.seed + repeat).of_samples(store)[train]
        for number in range(3):
            others, own = train[fold != number], train[fold == number]
            assert not set(store.subjects_of(others)) & set(store.subjects_of(own))
            data = lightgbm.Dataset(read[fold != number], outcome[others])
            booster = lightgbm.train(
                {
                    **{"objective": "binary", "num_leaves": 7, "learning_rate": 0.1, "min_child_samples": 50},
                    **{"feature_fraction": 0.2, "bagging_fraction": 0.8, "bagging_freq": 1, "reg_lambda": 10.0},
                    **{"deterministic": True, "force_row_wise": True, "seed": settings.seed + repeat, "verbosity": -1},
                },
                data,
                3000,
                valid_sets=[data.create_valid(watched, outcome[tuning])],
                callbacks=[lightgbm.early_stopping(20, verbose=False)],
            )
            told[repeat, fold == number] = booster.predict(read[fold == number], num_iteration=booster.best_iteration)
    label = teach(teacher, store, settings.seed, tmp_path).arrays.sample_label[:, 0]
    np.testing.assert_allclose(label[train], 0.4 * outcome[train] + 0.6 * told.mean(axis=0), atol=1e-6)
    rest = np.setdiff1d(np.arange(len(label)), train)
    np.testing.assert_array_equal(label[rest], outcome[rest])


def test_what_was_told_before_is_remembered_and_nothing_else(settings: Settings, store: Store, tmp_path: Path) -> None:
    teacher = settings.teacher
    assert teacher is not None

    def told(teacher: Teacher, store: Store, seed: int) -> tuple[NDArray[np.float32], str]:
        lines: list[str] = []
        taught = teach(teacher, store, seed, tmp_path, lines.append).arrays.sample_label[:, 0]
        return taught, lines[0].rpartition(", ")[2]

    first = told(teacher, store, 1)
    again = told(teacher, store, 1)
    assert (first[1], again[1]) == ("grown on other subjects", "told before")
    np.testing.assert_array_equal(first[0], again[0])
    lighter, how = told(teacher.model_copy(update={"weight": 0.3}), store, 1)
    outcome = store.arrays.sample_label[:, 0]
    assert how == "told before"
    np.testing.assert_allclose(lighter - outcome, (first[0] - outcome) / 2, atol=1e-6)
    (file,) = (tmp_path / "teachers").iterdir()

    # Anything that trees read makes another lesson.
    permuted = store.arrays.sample_label.copy()
    permuted[store.samples("train")] = permuted[store.samples("train")][::-1]
    folds = MemberFolds(3, 0).store_of(store, 0)
    for other in (
        told(teacher, store, 2),
        told(teacher.model_copy(update={"repeats": 1}), store, 1),
        told(teacher, replace(store, arrays=replace(store.arrays, sample_label=permuted)), 1),
        told(teacher, folds, 1),
    ):
        assert other[1] == "grown on other subjects"
    assert len(list((tmp_path / "teachers").iterdir())) == 5

    # A file that was cut short, or holds something else, is not believed.
    for content in (b"", file.read_bytes()[:200], b"no array"):
        file.write_bytes(content)
        mended, how = told(teacher, store, 1)
        assert how == "grown on other subjects"
        np.testing.assert_array_equal(mended, first[0])


def test_outcomes_that_are_not_known_are_told_nothing_of(settings: Settings, store: Store, tmp_path: Path) -> None:
    teacher = settings.teacher
    assert teacher is not None
    arrays = store.arrays
    unknown = np.concatenate([store.samples(split)[::5] for split in ("train", "tuning")])
    label = arrays.sample_label.copy()
    label[unknown, 0] = np.nan
    hidden = replace(store, arrays=replace(arrays, sample_label=label))
    taught = teach(teacher, hidden, settings.seed, tmp_path).arrays.sample_label[:, 0]
    np.testing.assert_array_equal(np.isnan(taught), np.isnan(label[:, 0]))


def test_the_loss_is_the_weighted_sum_of_both(settings: Settings) -> None:
    generator = torch.Generator().manual_seed(1)
    logit = torch.randn(200, 1, generator=generator, dtype=torch.float64)
    outcome = (torch.rand(200, 1, generator=generator) < 0.3).double()
    risk = torch.rand(200, 1, generator=generator).double()
    objective = BinaryObjective(1, settings.loss)
    apart = [functional.binary_cross_entropy(logit.sigmoid(), truth) for truth in (outcome, risk)]
    together = objective.loss(logit, 0.4 * outcome + 0.6 * risk)
    assert float(together) == pytest.approx(float(0.4 * apart[0] + 0.6 * apart[1]), abs=1e-12)
    objective.fit(np.array([[0.1], [0.6], [np.nan], [0.2]], np.float32))
    assert float(objective.get_buffer("prior")) == pytest.approx(np.log(0.9 / 2.1), abs=1e-6)


def test_trained_by_the_command(tmp_path: Path, ehrseq: Command) -> None:
    done = ehrseq("train", *WORDS, "audit.shuffled_labels=true", "explain=none", "paths.runs=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train: trees told their risks of" in done.stderr
    words = (*WORDS, "explain=none")
    again = ehrseq("train", *words, "paths.runs=two", cwd=tmp_path)
    plain = ehrseq("train", *(word for word in words if not word.startswith("teacher")), "paths.runs=x", cwd=tmp_path)
    assert again.returncode == plain.returncode == 0
    one, two, other = (next((tmp_path / name).iterdir()) for name in ("one", "two", "x"))
    assert one.name == two.name != other.name
    weights = [(folder / "train" / "model.safetensors").read_bytes() for folder in (one, two, other)]
    assert weights[0] == weights[1] != weights[2]
    for name in ("model_card.md", "tripod_ai.md"):
        assert "lstm, taught by trees" in (one / "report" / name).read_text()
        assert "taught" not in (other / "report" / name).read_text()
    control = json.loads((one / "audit" / "audit.json").read_text())["control/shuffled_labels_auroc"]
    # 120 held-out histories, a third of them positive: a standard error of 0.056; four of them.
    assert control["value"] == pytest.approx(0.5, abs=0.22)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=length_of_stay"], "teacher=trees tells risks of a binary target, not of a regression one"),
        (["loss.focal=2"], "loss.focal=2.0: teacher=trees tells risks, not a yes or no; use teacher=none"),
        (["teacher.weight=0"], "teacher.weight"),
        (["teacher.folds=1"], "teacher.folds"),
    ],
)
def test_what_does_not_go_together_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(["teacher=trees", *words])


@pytest.mark.parametrize("experiment", ["physionet2012", "physionet2019"])
def test_experiments_are_taught_unless_told_otherwise(experiment: str) -> None:
    words = [f"experiment={experiment}", "source.path=there"]
    assert load_settings(words).teacher is not None
    assert load_settings([*words, "teacher=none"]).teacher is None
