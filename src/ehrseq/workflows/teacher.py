"""Learning from trees: what they say of histories of `train` that they have not seen, beside the outcomes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Teacher
from ehrseq.config.targets import BinaryTarget
from ehrseq.store import Store
from ehrseq.workflows.build import build_booster
from ehrseq.workflows.member_folds import MemberFolds


def teach(teacher: Teacher, store: Store, seed: int, report: Callable[[str], None] | None = None) -> Store:
    """The store as the network is shown it: risks that trees tell are mixed into the (first) outcome of `train`.

    Distillation (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"): of an outcome y and a risk r the
    network learns (1 - weight) y + weight r. Cross-entropy is linear in the outcome, so that this is the weighted sum
    of the losses against both. The trees that tell of a history have not grown on any of its subject (cross-fitting):
    of what they have seen, trees say little more than the outcome itself. As with networks, `tuning` decides when they
    stop growing; its outcomes stay as they are.

    Args:
        teacher: How trees grow, and how much they count.
        store: The data; where an outcome is not known, nothing is told.
        seed: Of the trees and of the folds.
        report: Prints a line.

    Raises:
        ConfigError: If LightGBM is not installed.
        TrainingError: If the outcomes that trees would grow on are all the same.
    """
    risk = np.mean([_cross_fit(teacher, store, seed + number) for number in range(teacher.repeats)], axis=0)
    train = store.samples("train")
    label = store.arrays.sample_label.copy()
    label[train, 0] += teacher.weight * (risk - label[train, 0])
    if report:
        report(f"train: trees told their risks of {len(train):,} histories, grown on other subjects")
    return replace(store, arrays=replace(store.arrays, sample_label=label))


def _cross_fit(teacher: Teacher, store: Store, seed: int) -> NDArray[np.float64]:
    """The risk of each sample of `train`, (M,), told by trees grown on the folds that its subject is not in."""
    from ehrseq.data.summary import summarise

    train, tuning = store.samples("train"), store.samples("tuning")
    outcome = store.arrays.sample_label[:, :1]
    (read, _), (watched, _) = (summarise(store, samples, teacher.summary) for samples in (train, tuning))
    is_known, is_watched = (~np.isnan(outcome[samples, 0]) for samples in (train, tuning))
    fold = MemberFolds(teacher.folds, seed).of_samples(store)[train]
    risk = np.empty(len(train))
    for number in range(teacher.folds):
        grown = (fold != number) & is_known
        trees = build_booster(teacher, BinaryTarget(kind="binary"))
        trees.fit(
            (read[grown], outcome[train[grown]]),
            (watched[is_watched], outcome[tuning[is_watched]]),
            monitor="tuning/loss",
            seed=seed,
        )
        risk[fold == number] = trees.predict(read[fold == number])[:, 0]
    return risk
