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

    Without copies, trees tell of `train`. Those that tell of a history have not grown on any of its subject
    (cross-fitting): of what they have seen, trees say little more than the outcome itself.

    A network matches trees the more closely the more they tell of. With copies (see `ehrseq.data.copies`) they tell of
    these, whose outcomes nobody knows, and have grown on all of `train` (as in Bucila, Caruana and Niculescu-Mizil
    2006, "Model Compression"). If of the copies of a subject such trees told as have not seen it, nobody would say of
    what is most like a subject what its outcome has to say. Of the histories themselves nothing is told then.

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

    folds, own = _deal(teacher, store, seed), len(store.samples("train"))
    store = add_copies(store, teacher.copies, seed)
    rows = store.samples("train")
    if teacher.copies.number:
        rows = rows[own:]
    lesson = _Lesson.of(teacher, store, rows, folds, seed)
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
        of = f"{len(rows):,} changed copies of {own:,} histories" if teacher.copies.number else f"{own:,} histories"
        report(f"train: trees told their risks of {of}, {how}")
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
        read: Features of `train`, without copies, (M, K).
        outcome: Theirs, (M, 1); NaN where it is not known.
        watched: Features of those of `tuning` whose outcome is known, (N, K).
        watched_outcome: Theirs, (N, 1).
        copies: Features of what is told of, (C, K); None: that is `train` itself.
        folds: By repeat, the fold of each sample of `train`, (R, M).
        seed: Of the first repeat; each has another.
    """

    read: NDArray[np.float32]
    outcome: NDArray[np.float32]
    watched: NDArray[np.float32]
    watched_outcome: NDArray[np.float32]
    copies: NDArray[np.float32] | None
    folds: NDArray[np.int64]
    seed: int

    @classmethod
    def of(
        cls, teacher: Teacher, store: Store, rows: NDArray[np.int64], folds: NDArray[np.int64], seed: int
    ) -> "_Lesson":
        """Of a store with copies; `rows` are the samples to tell of, folds (R, M)."""
        from ehrseq.data.summary import summarise

        own, tuning = store.samples("train")[: folds.shape[1]], store.samples("tuning")
        outcome = store.arrays.sample_label[:, :1]
        tuning = tuning[~np.isnan(outcome[tuning, 0])]
        (read, _), (watched, _) = (summarise(store, samples, teacher.summary) for samples in (own, tuning))
        copies = summarise(store, rows, teacher.summary)[0] if teacher.copies.number else None
        return cls(read, outcome[own], watched, outcome[tuning], copies, folds, seed)

    def digest(self, teacher: Teacher) -> str:
        """Of everything that decides what trees tell: equal digests, equal risks."""
        how = {
            "trees": [
                # The number of threads changes no tree.
                {**trees.parameters, "num_threads": None, "at most": trees.n_estimators, "patience": trees.patience}
                for trees in build_boosters(teacher)
            ],
            "seed": self.seed,
            "repeats": len(self.folds),
            "lightgbm": import_lightgbm().__version__,
        }
        total = blake3(digest_json(how).encode())
        # Of copies trees tell that have grown on everyone; then folds say nothing but how often they grow.
        what = self.folds if self.copies is None else self.copies
        for array in (self.read, self.outcome, self.watched, self.watched_outcome, what):
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return str(total.hexdigest()[:32])

    def tell(self, teacher: Teacher) -> NDArray[np.float64]:
        """Risks, (C,) or (M,): the mean of all repeats."""
        train, tuning = (self.read, self.outcome), (self.watched, self.watched_outcome)
        kinds = build_boosters(teacher)
        told = np.zeros(len(self.read if self.copies is None else self.copies))
        for number, trees in enumerate(kinds):
            folds = self.folds[number :: len(kinds)]
            seed = self.seed + number * len(self.folds)
            if self.copies is None:
                each = trees.cross_fit(train, tuning, folds, monitor=_MONITOR, seed=seed)
            else:
                each = trees.fit_whole(train, tuning, self.copies, repeats=len(folds), monitor=_MONITOR, seed=seed)
            told += each[..., 0].sum(axis=0)
        mean: NDArray[np.float64] = told / len(self.folds)
        return mean
