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
_MONITOR = "tuning/loss"  # by which trees stop growing
_LEAST = 1e-6  # risk, and chance of the other outcome: their logits are finite


def teach(
    teacher: Teacher, store: Store, seed: int, data: Path, report: Callable[[str], None] | None = None
) -> tuple[Store, "Teaching"]:
    """Have trees tell their risks, from which a network learns beside the (first) outcome.

    Distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"), of logits (see
    `ehrseq.nn.objectives.BinaryObjective`). As with networks, `tuning` decides when trees stop growing; they say
    nothing of it.

    Trees that tell of a history of `train` have not grown on any of its subject (cross-fitting): of what they have
    seen, trees say little more than the outcome itself. A network matches trees the more closely the more they tell of.
    So they may tell of changed copies of the histories as well, whose outcomes nobody knows (see
    `ehrseq.data.copies`): of a copy those that tell of the subject it was made of. Then nobody says, of what is most
    like a subject, what its outcome has to say.

    Or trees have grown on all of `train` and tell of the copies alone (as in Bucila, Caruana and Niculescu-Mizil 2006,
    "Model Compression").

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
        outcomes (NaN where nothing is told); and how much they count.

    Raises:
        ConfigError: If LightGBM is not installed.
        TrainingError: If the outcomes that trees would grow on are all the same.
    """
    from ehrseq.training.module import Teaching

    folds = _deal(teacher, store, seed)
    own = folds.shape[1]
    store = add_copies(store, teacher.copies, seed)
    lesson = _Lesson.of(teacher, store, folds, seed)
    rows = store.samples("train")[own if teacher.grown_on == "all" else 0 :]
    path = data / _FOLDER / f"{lesson.digest(teacher)}.npy"
    risk = _recall(path, rows.shape)
    how = "told before" if risk is not None else "told now"
    if risk is None:
        risk = lesson.tell(teacher)
        with atomic_file(path) as staging:
            np.save(staging, risk)
    risk = np.clip(risk, _LEAST, 1 - _LEAST)
    auxiliary = store.arrays.sample_auxiliary
    logit = np.full((len(auxiliary), 1), np.nan, auxiliary.dtype)
    logit[rows, 0] = np.log(risk / (1 - risk))
    if report:
        copies = f"{teacher.copies.number * own:,} changed copies of " if teacher.copies.number else ""
        also = f"{own:,} histories and " if copies and teacher.grown_on == "others" else ""
        report(f"train: trees told their risks of {also}{copies}{own:,} histories, {how}")
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
            "grown on": teacher.grown_on,
            "lightgbm": import_lightgbm().__version__,
        }
        total = blake3(digest_json(how).encode())
        for array in (self.read, self.outcome, self.watched, self.watched_outcome, self.folds):
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return str(total.hexdigest()[:32])

    def tell(self, teacher: Teacher) -> NDArray[np.float64]:
        """Risks of all that is told of, in the order of the samples: the mean of all repeats."""
        train, tuning = (self.read[0], self.outcome), (self.watched, self.watched_outcome)
        copies = list(self.read[1:])
        kinds = build_boosters(teacher)
        told = []
        for number, trees in enumerate(kinds):
            folds, seed = self.folds[number :: len(kinds)], self.seed + number * len(self.folds)
            if teacher.grown_on == "others":
                each = trees.cross_fit(train, tuning, folds, monitor=_MONITOR, seed=seed, copies=copies)
            else:
                each = trees.fit_whole(train, tuning, copies, repeats=len(folds), monitor=_MONITOR, seed=seed)
            told.append(each[..., 0].sum(axis=0))
        mean: NDArray[np.float64] = np.sum(told, axis=0).ravel() / len(self.folds)
        return mean
