"""The trees: they learn what is there, the same every time, and come back from their file unchanged."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ehrseq.baselines import GradientBoosting
from ehrseq.baselines.gbm import FILE
from ehrseq.config.targets import MulticlassTarget, OrdinalTarget, RegressionTarget
from ehrseq.errors import ConfigError, RunError, TrainingError
from ehrseq.metrics import auroc, average_precision, log_loss

Part = tuple[NDArray[np.float32], NDArray[np.float32]]


def draw(seed: int, rows: int = 600) -> Part:
    """Ten features, many of them missing; the first two decide."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, 10)).astype(np.float32)
    label = (matrix[:, 0] + matrix[:, 1] ** 2 + 0.3 * random.normal(size=rows) > 1).astype(np.float32)
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix, label[:, None]


def fitted(seed: int = 1, threads: int = 1) -> GradientBoosting:
    trees = GradientBoosting(n_estimators=150, learning_rate=0.1, min_child_samples=20, patience=20, threads=threads)
    trees.fit(draw(0), draw(1), monitor="tuning/loss", seed=seed)
    return trees


def grow(trees: GradientBoosting, train: Part, tuning: Part, monitor: str) -> list[dict[str, float]]:
    """Fit; returns the figures after each tree."""
    history: list[dict[str, float]] = []
    trees.fit(train, tuning, monitor=monitor, seed=1, report=lambda figures, _: history.append(dict(figures)))
    return history


def test_learns_what_is_there() -> None:
    matrix, label = draw(2)
    trees = fitted()
    prediction = trees.predict(matrix)
    probability = prediction[:, 0]
    assert prediction.dtype == np.float64
    assert prediction.shape == (600, 1)
    assert auroc(label[:, 0], probability) > 0.8
    assert 0 < trees.best <= trees.trained <= 150
    gain, splits = trees.importance()
    assert set(np.argsort(-gain)[:2]) == {0, 1}
    assert splits.sum() <= trees.best * 6
    assert trees.predict(matrix[:0]).shape == (0, 1)


@pytest.mark.parametrize(
    ("monitor", "figure"), [("tuning/loss", log_loss), ("tuning/auroc", auroc), ("tuning/auprc", average_precision)]
)
def test_keeps_the_trees_that_are_best_by_the_monitor(monitor, figure) -> None:  # type: ignore[no-untyped-def]
    history: list[float] = []
    trees = GradientBoosting(n_estimators=60, learning_rate=0.3, patience=15, threads=1)
    tuning = draw(1)
    trees.fit(draw(0), tuning, monitor=monitor, seed=1, report=lambda figures, _: history.append(figures[monitor]))
    best = np.argmin(history) if monitor == "tuning/loss" else np.argmax(history)
    assert trees.best == best + 1
    assert trees.trained == len(history)
    assert trees.score == history[best]
    # The figure is that of the trees which are kept, on all of tuning.
    assert figure(tuning[1][:, 0], trees.predict(tuning[0])[:, 0]) == pytest.approx(trees.score, abs=1e-6)
    # Nobody need look on.
    alone = GradientBoosting(n_estimators=60, learning_rate=0.3, patience=15, threads=1)
    alone.fit(draw(0), tuning, monitor=monitor, seed=1)
    assert (alone.best, alone.trained, alone.score) == (trees.best, trees.trained, trees.score)
    np.testing.assert_array_equal(alone.predict(tuning[0]), trees.predict(tuning[0]))


def test_the_seed_decides_and_threads_do_not(tmp_path: Path) -> None:
    matrix, _ = draw(2)
    texts = []
    for seed in (1, 1, 2):
        fitted(seed).save(tmp_path)
        texts.append((tmp_path / FILE).read_bytes())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    np.testing.assert_array_equal(fitted(threads=1).predict(matrix), fitted(threads=2).predict(matrix))


def test_comes_back_from_its_file(tmp_path: Path) -> None:
    matrix, _ = draw(2)
    trees, again = fitted(), GradientBoosting()
    trees.save(tmp_path)
    again.load(tmp_path)
    np.testing.assert_array_equal(again.predict(matrix), trees.predict(matrix))
    assert again.best == trees.best
    # One row at a time is the same, to the last bit.
    np.testing.assert_array_equal(np.concatenate([again.predict(row[None]) for row in matrix]), again.predict(matrix))


def test_a_heavier_positive_raises_probabilities() -> None:
    matrix, _ = draw(2)
    heavy = GradientBoosting(n_estimators=30, threads=1)
    heavy.fit(draw(0), draw(1), monitor="tuning/auroc", seed=1, class_weight=5.0)
    assert heavy.predict(matrix).mean() > fitted().predict(matrix).mean() + 0.1


def test_classes_are_learned_and_balanced() -> None:
    target = MulticlassTarget(kind="multiclass", classes=("low", "middle", "high"))

    def classes(seed: int) -> Part:
        matrix, _ = draw(seed)
        value = np.nan_to_num(matrix[:, 0]) + np.nan_to_num(matrix[:, 1])
        return matrix, np.digitize(value, [-2.0, 0.5]).astype(np.float32)[:, None]

    (matrix, outcome), tuning = classes(2), classes(1)
    small = {"n_estimators": 60, "learning_rate": 0.2, "min_child_samples": 20, "threads": 1}
    for monitor in ("tuning/loss", "tuning/auroc", "tuning/accuracy"):
        trees = GradientBoosting(**small, patience=10, target=target)  # type: ignore[arg-type]
        history = grow(trees, classes(0), tuning, monitor)
        figures = [entry[monitor] for entry in history]
        assert trees.best == (np.argmin(figures) if monitor == "tuning/loss" else np.argmax(figures)) + 1
        watched = trees.predict(tuning[0])
        assert watched.shape == (600, 3)
        np.testing.assert_allclose(watched.sum(axis=1), 1)
        kept, number = history[trees.best - 1], tuning[1][:, 0].astype(np.int64)
        assert kept["tuning/accuracy"] == pytest.approx((watched.argmax(axis=1) == number).mean())
        assert kept["tuning/loss"] == pytest.approx(-np.log(watched[np.arange(600), number]).mean(), abs=1e-6)
        assert kept["tuning/auroc"] == pytest.approx(np.mean([auroc(number == k, watched[:, k]) for k in range(3)]))
        assert set(kept) == {"train/loss", "tuning/loss", "tuning/auroc", "tuning/accuracy"}
    prediction = trees.predict(matrix)
    assert (prediction.argmax(axis=1) == outcome[:, 0]).mean() > 0.75
    rare = (outcome == 0).mean()
    heavy = GradientBoosting(**small, target=target)  # type: ignore[arg-type]
    heavy.fit(classes(0), tuning, monitor="tuning/auroc", seed=1, class_weight="balanced")
    assert heavy.predict(matrix)[:, 0].mean() > 1.2 * rare
    with pytest.raises(TrainingError, match="classes of 0 to 2, and needs two of them or more in tuning"):
        trees.fit(classes(0), (tuning[0], tuning[1] * 0), monitor="tuning/loss", seed=1)
    assert trees.predict(matrix[:0]).shape == (0, 3)


@pytest.mark.parametrize("log", [False, True])
def test_numbers_are_learned_in_their_own_unit(log: bool, tmp_path: Path) -> None:
    target = RegressionTarget(kind="regression", log=log)

    def numbers(seed: int) -> Part:
        matrix, _ = draw(seed)
        value = np.exp(np.nan_to_num(matrix[:, 0])) if log else 50 + 20 * np.nan_to_num(matrix[:, 0])
        return matrix, value.astype(np.float32)[:, None]

    tuning = numbers(1)
    trees = GradientBoosting(learning_rate=0.1, patience=20, n_estimators=150, threads=1, target=target)
    history = grow(trees, numbers(0), tuning, "tuning/r2")
    prediction, truth = trees.predict(tuning[0]), tuning[1].astype(np.float64)
    assert prediction.shape == (600, 1)
    kept = history[trees.best - 1]
    assert trees.score == kept["tuning/r2"] == max(entry["tuning/r2"] for entry in history)
    assert kept["tuning/mae"] == pytest.approx(np.abs(prediction - truth).mean(), rel=1e-5)
    assert kept["tuning/r2"] == pytest.approx(
        1 - ((prediction - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    )
    learned = (np.log1p(prediction), np.log1p(truth)) if log else (prediction, truth)
    assert kept["tuning/loss"] == pytest.approx(((learned[0] - learned[1]) ** 2).mean(), rel=1e-4)
    assert kept["tuning/r2"] > 0.7
    trees.save(tmp_path)
    again = GradientBoosting(target=target)
    again.load(tmp_path)
    np.testing.assert_array_equal(again.predict(tuning[0]), prediction)
    with pytest.raises(TrainingError, match="finite numbers, and needs some in train"):
        trees.fit((tuning[0], tuning[1] * np.nan), tuning, monitor="tuning/loss", seed=1)


def test_other_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="trees learn binary, multiclass and regression targets; this is ordinal"):
        GradientBoosting(target=OrdinalTarget(kind="ordinal", edges=(1.0, 2.0)))


def test_mistakes_end_in_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="neither fitted nor loaded"):
        GradientBoosting().predict(np.zeros((1, 2), np.float32))
    with pytest.raises(RunError, match=r"trees\.txt cannot be read"):
        GradientBoosting().load(tmp_path)
    (tmp_path / FILE).write_text("no trees at all")
    with pytest.raises(RunError, match=r"trees\.txt cannot be read"):
        GradientBoosting().load(tmp_path)
    matrix, label = draw(0)
    with pytest.raises(TrainingError, match="outcomes of 0 and 1, and needs both in tuning"):
        GradientBoosting().fit((matrix, label), (matrix, label * 0), monitor="tuning/loss", seed=1)
    with pytest.raises(TrainingError, match="outcomes of 0 and 1, and needs both in train"):
        GradientBoosting().fit((matrix, label + 1), (matrix, label), monitor="tuning/loss", seed=1)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"pip install 'ehrseq\[gbm\]'"):
        fitted()
