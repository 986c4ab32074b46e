"""Learning from trees: what they say of histories of `train` that they have not seen, beside the outcomes."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from ehrseq.baselines import import_lightgbm
from ehrseq.config.model import Teacher
from ehrseq.data.copies import add_copies
from ehrseq.files import atomic_file, digest_json
from ehrseq.store import Store
from ehrseq.workflows.build import build_boosters
from ehrseq.workflows.member_folds import MemberFolds

if TYPE_CHECKING:
    from ehrseq.training.module import Teaching

_FOLDER = "teachers"
_LEAST = 1e-6  # risk, and chance of the other outcome: their logits are finite


def teach(
    teacher: Teacher, store: Store, seed: int, data: Path, report: Callable[[str], None] | None = None
) -> tuple[Store, "Teaching"]:
    """Have trees tell their risks of `train`, from which a network learns beside the (first) outcome.

    Distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"), of logits (see
    `ehrseq.nn.objectives.BinaryObjective`). The trees that tell of a history have not grown on any of its subject
    (cross-fitting): of what they have seen, trees say little more than the outcome itself. As with networks, `tuning`
    decides when they stop growing; they say nothing of it.

    A network matches trees the more closely the more they tell of. So they also tell of changed copies of the
    histories, whose outcomes nobody knows (see `ehrseq.data.copies`): of a copy those trees tell that tell of the
    subject it was made of.

    What trees tell depends on nothing but what they read, and is remembered by its digest: networks that are compared
    on the same folds have one teacher.

    Args:
        teacher: How trees grow, and how much they count.
        store: The data; where an outcome is not known, trees learn nothing.
        seed: Of the trees, the folds and the copies.
        data: The folder of all data, where risks are remembered.
        report: Prints a line.

    Returns:
        The store with the copies, as samples of `train` behind all others, and the logits as the last of the auxiliary
        outcomes (NaN outside of `train`); and how much they count.

    Raises:
        ConfigError: If LightGBM is not installed.
        TrainingError: If the outcomes that trees would grow on are all the same.
    """
    from ehrseq.training.module import Teaching

    folds = _deal(teacher, store, seed)
    store = add_copies(store, teacher.copies, seed)
    lesson = _Lesson.of(teacher, store, folds, seed)
    path = data / _FOLDER / f"{lesson.digest(teacher)}.npy"
    risk = _recall(path, lesson.read.shape[:2])
    how = "told before" if risk is not None else "grown on other subjects"
    if risk is None:
        risk = lesson.tell(teacher)
        with atomic_file(path) as staging:
            np.save(staging, risk)
    risk = np.clip(risk, _LEAST, 1 - _LEAST)
    train = store.samples("train")
    auxiliary = store.arrays.sample_auxiliary
    logit = np.full((len(auxiliary), 1), np.nan, auxiliary.dtype)
    logit[train, 0] = np.log(risk / (1 - risk)).ravel()
    if report:
        own = lesson.read.shape[1]
        copies = f" and {len(train) - own:,} copies" if len(train) > own else ""
        report(f"train: trees told their risks of {own:,} histories{copies}, {how}")
    arrays = replace(store.arrays, sample_auxiliary=np.concatenate([auxiliary, logit], axis=1))
    scale = float(np.mean(risk * (1 - risk))) if teacher.match == "logits" else None
    return replace(store, arrays=arrays), Teaching(teacher.weight, scale)


def _deal(teacher: Teacher, store: Store, seed: int) -> NDArray[np.int64]:
    """By repeat, the fold of each sample of `train`, (R, M)."""
    train = store.samples("train")
    return np.stack([MemberFolds(teacher.folds, seed + n).of_samples(store)[train] for n in range(teacher.repeats)])


def _recall(path: Path, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Risks that were told before; None where there are none, or the file is damaged."""
    with suppress(OSError, ValueError, EOFError):
        risk = np.load(path, allow_pickle=False)
        if risk.shape == shape:
            return np.asarray(risk, np.float64)
    return None


@dataclass(frozen=True)
class _Lesson:
    """All that trees read.

    Attributes:
        read: Features of `train`, and of its C copies, (1 + C, M, K).
        outcome: Of `train`, without copies, (M, 1); NaN where it is not known.
        watched: Features of those of `tuning` whose outcome is known, (N, K).
        watched_outcome: Theirs, (N, 1).
        folds: By repeat, the fold of each sample of `train`, (R, M).
        seed: Of the first repeat; each has another.
    """

    read: NDArray[np.float32]
    outcome: NDArray[np.float32]
    watched: NDArray[np.float32]
    watched_outcome: NDArray[np.float32]
    folds: NDArray[np.int64]
    seed: int

    @classmethod
    def of(cls, teacher: Teacher, store: Store, folds: NDArray[np.int64], seed: int) -> "_Lesson":
        """Of a store with copies; folds (R, M)."""
        from ehrseq.data.summary import summarise

        train, tuning = store.samples("train"), store.samples("tuning")
        outcome = store.arrays.sample_label[:, :1]
        tuning = tuning[~np.isnan(outcome[tuning, 0])]
        (read, _), (watched, _) = (summarise(store, samples, teacher.summary) for samples in (train, tuning))
        samples = folds.shape[1]
        own = read.reshape(1 + teacher.copies.number, samples, -1)
        return cls(own, outcome[train[:samples]], watched, outcome[tuning], folds, seed)

    def digest(self, teacher: Teacher) -> str:
        """Of everything that decides what trees tell: equal digests, equal risks."""
        how = {
            "trees": [
                # The number of threads changes no tree.
                {**trees.parameters, "num_threads": None, "at most": trees.n_estimators, "patience": trees.patience}
                for trees in build_boosters(teacher)
            ],
            "seed": self.seed,
            "lightgbm": import_lightgbm().__version__,
        }
        total = blake3(digest_json(how).encode())
        for array in (self.read, self.outcome, self.watched, self.watched_outcome, self.folds):
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return str(total.hexdigest()[:32])

    def tell(self, teacher: Teacher) -> NDArray[np.float64]:
        """Risks, (1 + C, M): the mean of what trees say that have not grown on the subject."""
        train, tuning = (self.read[0], self.outcome), (self.watched, self.watched_outcome)
        copies = list(self.read[1:])
        kinds = build_boosters(teacher)
        told = np.zeros(self.read.shape[:2])
        for number, trees in enumerate(kinds):
            folds, seed = self.folds[number :: len(kinds)], self.seed + number * len(self.folds)
            each = trees.cross_fit(train, tuning, folds, monitor="tuning/loss", seed=seed, copies=copies)
            told += each[..., 0].sum(axis=0)
        mean: NDArray[np.float64] = told / len(self.folds)
        return mean
