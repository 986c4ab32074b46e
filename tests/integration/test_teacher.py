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
from ehrseq.config.model import Teacher
from ehrseq.config.schema import Settings
from ehrseq.config.targets import SeveralTarget, columns_of
from ehrseq.data.copies import add_copies
from ehrseq.data.summary import summarise
from ehrseq.errors import ConfigError
from ehrseq.nn import Told, make_objective
from ehrseq.nn.objectives import BinaryObjective
from ehrseq.store import Store
from ehrseq.workflows import prepare
from ehrseq.workflows.learn import set_up
from ehrseq.workflows.member_folds import MemberFolds
from ehrseq.workflows.teacher import _Lesson, teach

Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    *("source.n_subjects=600", "teacher=trees", "teacher.folds=3", "teacher.repeats=2", "teacher.weight=0.6"),
    "teacher.copies.number=2",
    *("teacher.booster.learning_rate=0.1", "teacher.booster.patience=20", "teacher.booster.threads=2"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "evaluate.replicates=0", "evaluate.figures=false"),
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings([*WORDS, "explain=none", f"paths.data={tmp_path_factory.mktemp('teacher')}"])


@pytest.fixture(scope="module")
def store(settings: Settings) -> Store:
    return prepare.run(settings).open()


@pytest.mark.parametrize("grown_on", ["others", "all"])
def test_what_is_told_is_lightgbm_that_has_grown_on_other_subjects_or_on_all(
    grown_on: str, settings: Settings, store: Store, tmp_path: Path
) -> None:
    assert settings.teacher is not None
    teacher = settings.teacher.model_copy(update={"grown_on": grown_on})
    train, tuning = store.samples("train"), store.samples("tuning")
    outcome = store.arrays.sample_label[:, 0]
    read, watched = (summarise(store, part, teacher.summary)[0] for part in (train, tuning))
    copied = add_copies(store, teacher.copies, settings.seed)
    behind = np.arange(len(outcome), len(outcome) + 2 * len(train))
    copies = summarise(copied, behind, teacher.summary)[0]
    parameters = {
        **{"objective": "binary", "num_leaves": 7, "learning_rate": 0.1, "min_child_samples": 50, "verbosity": -1},
        **{"feature_fraction": 0.2, "bagging_fraction": 0.8, "bagging_freq": 1, "reg_lambda": 10.0},
        **{"deterministic": True, "force_row_wise": True, "data_random_seed": 1},
    }
    bins = lightgbm.Dataset(read, outcome[train], params=parameters)  # of features alone, for all trees

    def grown(on: NDArray[np.bool_], seed: int) -> lightgbm.Booster:
        data = lightgbm.Dataset(read[on], outcome[train[on]], reference=bins, params=parameters)
        return lightgbm.train(
            {**parameters, "seed": seed},
            data,
            3000,
            valid_sets=[data.create_valid(watched, outcome[tuning])],
            callbacks=[lightgbm.early_stopping(20, verbose=False)],
        )

    told = np.zeros((2, 3, len(train)))  # by repeat, of `train` and of its two copies
    for repeat in range(2):
        seed = settings.seed + repeat
        if grown_on == "all":
            booster = grown(np.ones(len(train), bool), seed)
            told[repeat, 1:] = [booster.predict(matrix) for matrix in np.split(copies, 2)]
            continue
        fold = MemberFolds(3, seed).of_samples(store)[train]
        for own in range(3):
            others, mine = train[fold != own], train[fold == own]
            assert not set(store.subjects_of(others)) & set(store.subjects_of(mine))
            booster = grown(fold != own, seed)
            for place, matrix in enumerate((read, *np.split(copies, 2))):
                told[repeat, place, fold == own] = booster.predict(matrix[fold == own])
    taught, teaching = teach(teacher, store, settings.seed, tmp_path)
    known = behind if grown_on == "all" else np.concatenate([train, behind])
    logit, risk = taught.arrays.sample_auxiliary[:, -1], told.mean(axis=0).ravel()[-len(known) :]
    np.testing.assert_allclose(logit[known], np.log(risk / (1 - risk)), atol=1e-5)
    assert np.isnan(np.delete(logit, known)).all()
    np.testing.assert_array_equal(taught.samples("train"), np.concatenate([train, behind]))
    np.testing.assert_array_equal(taught.arrays.sample_label, copied.arrays.sample_label)
    np.testing.assert_array_equal(taught.arrays.time, copied.arrays.time)
    assert teaching == (0.6, None)
    _, teaching = teach(teacher.model_copy(update={"match": "logits"}), store, settings.seed, tmp_path)
    assert teaching == pytest.approx((0.6, np.mean(risk * (1 - risk))))


@pytest.mark.parametrize("grown_on", ["others", "all"])
def test_two_kinds_of_trees_share_the_repeats(grown_on: str, settings: Settings, store: Store, tmp_path: Path) -> None:
    """Each tells in every second one; what both say is the mean, weighted by how many repeats they have."""
    assert settings.teacher is not None
    one = settings.teacher.model_copy(update={"grown_on": grown_on})
    other = one.model_copy(update={"booster": one.booster.model_copy(update={"num_leaves": 3, "extra_trees": True})})
    both = one.model_copy(update={"repeats": 3, "other": other.booster})

    def risks(teacher: Teacher, seed: int) -> NDArray[np.float64]:
        taught, _ = teach(teacher, store, seed, tmp_path)
        logit = taught.arrays.sample_auxiliary[:, -1].astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-logit[~np.isnan(logit)])), np.float64)

    def alone(teacher: Teacher, deals: list[int], grown: int) -> NDArray[np.float64]:
        """The mean over repeats with these seeds of the folds; the copies are those of seed 0."""
        train, copied = store.samples("train"), add_copies(store, teacher.copies, 0)
        folds = np.stack([MemberFolds(teacher.folds, deal).of_samples(store)[train] for deal in deals])
        return _Lesson.of(teacher, copied, folds, grown).tell(teacher)

    expected = (2 * alone(one, [0, 2], 0) + alone(other, [1], 3)) / 3
    np.testing.assert_allclose(risks(both, 0), expected, rtol=1e-5)
    assert np.abs(risks(one.model_copy(update={"repeats": 3}), 0) - expected).max() > 0.01


def test_what_was_told_before_is_remembered_and_nothing_else(settings: Settings, store: Store, tmp_path: Path) -> None:
    teacher = settings.teacher
    assert teacher is not None

    def told(teacher: Teacher, store: Store, seed: int) -> tuple[NDArray[np.float32], str]:
        lines: list[str] = []
        taught, _ = teach(teacher, store, seed, tmp_path, lines.append)
        return taught.arrays.sample_auxiliary[:, -1], lines[0].rpartition(", ")[2]

    first = told(teacher, store, 1)
    again = told(teacher, store, 1)
    assert (first[1], again[1]) == ("told now", "told before")
    np.testing.assert_array_equal(first[0], again[0])
    lighter, how = told(teacher.model_copy(update={"weight": 0.3}), store, 1)
    assert how == "told before"
    np.testing.assert_array_equal(lighter, first[0])
    (file,) = (tmp_path / "teachers").iterdir()

    # How copies are changed says nothing where there are none.
    none, noisy = (
        teacher.model_copy(update={"copies": teacher.copies.model_copy(update={"number": 0, "noise": noise})})
        for noise in (0.1, 0.2)
    )
    assert [told(one, store, 1)[1] for one in (none, noisy)] == ["told now", "told before"]

    # Anything that trees read makes another lesson.
    noisier = teacher.model_copy(update={"copies": teacher.copies.model_copy(update={"noise": 0.2})})
    permuted = store.arrays.sample_label.copy()
    permuted[store.samples("train")] = permuted[store.samples("train")][::-1]
    folds = MemberFolds(3, 0).store_of(store, 0)
    for other in (
        told(teacher, store, 2),
        told(teacher.model_copy(update={"repeats": 1}), store, 1),
        told(noisier, store, 1),
        told(teacher.model_copy(update={"grown_on": "all"}), store, 1),
        told(teacher, replace(store, arrays=replace(store.arrays, sample_label=permuted)), 1),
        told(teacher, folds, 1),
    ):
        assert other[1] == "told now"
    assert len(list((tmp_path / "teachers").iterdir())) == 8

    # A file that was cut short, or holds something else, is not believed.
    for content in (b"", file.read_bytes()[:200], b"no array"):
        file.write_bytes(content)
        mended, how = told(teacher, store, 1)
        assert how == "told now"
        np.testing.assert_array_equal(mended, first[0])


def test_outcomes_that_are_not_known_teach_no_trees(settings: Settings, store: Store, tmp_path: Path) -> None:
    teacher = settings.teacher
    assert teacher is not None
    label = store.arrays.sample_label.copy()
    for split in ("train", "tuning"):
        label[store.samples(split)[::5], 0] = np.nan  # which trees would refuse to grow on
    taught, _ = teach(teacher, replace(store, arrays=replace(store.arrays, sample_label=label)), 0, tmp_path)
    np.testing.assert_array_equal(taught.arrays.sample_label[: len(label)], label)
    assert np.isfinite(taught.arrays.sample_auxiliary[taught.samples("train"), -1]).all()


@pytest.mark.parametrize(("weight", "grown_on", "copies"), [(1.0, "all", 2), (0.6, "all", 3), (1.0, "others", 3)])
def test_where_nothing_would_be_learned_nothing_is_gone_through(
    weight: float, grown_on: str, copies: int, settings: Settings, store: Store
) -> None:
    """If what is told of copies alone has all the weight, the histories themselves teach nothing."""
    assert settings.teacher is not None
    teacher = settings.teacher.model_copy(update={"weight": weight, "grown_on": grown_on})
    training = set_up(settings.model_copy(update={"teacher": teacher}), store)
    assert len(training.train.dataset) == copies * len(store.samples("train"))  # type: ignore[arg-type]
    # What is taken of the outcomes is taken of those of the histories all the same.
    prior = store.arrays.sample_label[store.samples("train"), 0].mean()
    assert float(training.module.model.head.bias[0].detach().sigmoid()) == pytest.approx(prior, abs=1e-5)


@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize(("words", "shift"), [([], 0.0), (["loss.class_weight=5"], np.log(5.0))])
def test_the_loss_is_that_of_the_outcome_and_of_what_is_told(
    words: list[str], shift: float, scale: float | None
) -> None:
    generator = torch.Generator().manual_seed(1)
    logit, told = torch.randn(2, 200, 1, generator=generator, dtype=torch.float64)
    outcome = (torch.rand(200, 1, generator=generator) < 0.3).double()
    told[::4] = torch.nan  # a teacher who is silent
    outcome[::7] = torch.nan
    objective = BinaryObjective(1, load_settings(words).loss).double()
    objective.fit(outcome.numpy())

    def entropy(z: float, y: float) -> float:
        p = 1 / (1 + np.exp(-z))
        return float(-(np.exp(shift) * y * np.log(p) + (1 - y) * np.log(1 - p)))

    learned, matched, either = [], [], 0
    for z, y, r in zip(logit.flatten().tolist(), outcome.flatten().tolist(), told.flatten().tolist(), strict=True):
        either += not (np.isnan(y) and np.isnan(r))
        if not np.isnan(y):
            learned.append(0.4 * entropy(z, y))
        if not np.isnan(r):  # of a copy, whose outcome nobody knows, as well
            away = entropy(z, 1 / (1 + np.exp(-r))) if scale is None else scale * (z - r - shift) ** 2 / 2
            matched.append(0.6 * away)
    terms, counts = objective.terms(logit, outcome, Told(told, 0.6, scale))
    assert counts.tolist() == [either]
    assert float(terms.sum()) == pytest.approx(np.mean(learned) + np.mean(matched), abs=1e-12)
    assert float(objective.terms(logit, outcome)[0]) == pytest.approx(float(objective.loss(logit, outcome)), abs=1e-12)


def test_near_the_teacher_it_is_cross_entropy_against_its_risks(settings: Settings) -> None:
    risk = torch.full((1, 1), 0.2, dtype=torch.float64)
    teacher = risk.logit()
    objective = BinaryObjective(1, settings.loss)
    for step in (-0.02, 0.01):
        student = teacher + step
        apart = functional.binary_cross_entropy_with_logits(student, risk)
        apart -= functional.binary_cross_entropy_with_logits(teacher, risk)
        told = Told(teacher, 1.0, float(risk * (1 - risk)))
        assert float(objective.terms(student, risk.round(), told)[0]) == pytest.approx(float(apart), rel=0.01)


def test_of_several_targets_the_first_is_taught(settings: Settings) -> None:
    words = ["task=mortality_and_stay", "teacher=trees"]
    target = load_settings(words).task.target
    assert isinstance(target, SeveralTarget)
    objective = make_objective(target, settings.loss)
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(50, objective.outputs, generator=generator)
    columns = sum(part.outcomes.stop - part.outcomes.start for part in columns_of(target.parts))
    outcome = (torch.rand(50, columns, generator=generator) < 0.5).float()
    plain, _ = objective.terms(output, outcome)
    taught, _ = objective.terms(output, outcome, Told(torch.zeros(50, 1), 0.5, 0.25))
    assert float(taught[0]) != pytest.approx(float(plain[0]), rel=1e-3)
    torch.testing.assert_close(taught[1:], plain[1:])


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
        (["teacher=trees_hourly", "teacher.repeats=1"], "teacher.repeats=1: teacher.other has every second repeat"),
        (["teacher.grown_on=all"], "teacher.grown_on=all: of what trees have grown on"),
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
