"""The shuffled-label control."""

from dataclasses import replace

import numpy as np

from ehrseq.store import Arrays


def permute_labels(arrays: Arrays, seed: int) -> Arrays:
    """Give each sample the label of another sample of its split, by a seeded permutation.

    Each split keeps its prevalence, so the control faces the same problem in all but the truth. Outcomes of auxiliary
    targets move along: they would bring the truth back.
    """
    label, auxiliary = arrays.sample_label.copy(), arrays.sample_auxiliary.copy()
    generator = np.random.default_rng([seed, 0x5AFE])
    for split in np.unique(arrays.sample_split):
        rows = np.flatnonzero(arrays.sample_split == split)
        other = generator.permutation(rows)
        label[rows], auxiliary[rows] = label[other], auxiliary[other]
    return replace(arrays, sample_label=label, sample_auxiliary=auxiliary)
