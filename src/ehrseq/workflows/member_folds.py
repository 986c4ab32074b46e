"""Ensembles over folds: each member is tuned on another part of the subjects that all of them may learn from."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ehrseq.errors import DataError
from ehrseq.meds.splits import hash_subjects
from ehrseq.store import Store
from ehrseq.store.format import SPLIT_CODES


@dataclass(frozen=True)
class MemberFolds:
    """How the subjects of `train` and `tuning` are dealt out among the members.

    Attributes:
        members: K.
        seed: Of the order in which they are dealt.
    """

    members: int
    seed: int

    def of_samples(self, store: Store) -> NDArray[np.int64]:
        """The fold of each sample, (M,), 0 to K - 1; -1 in `held_out`, which no member sees, and outside of all splits.

        Subjects with a first outcome of 1 and others are dealt apart, so that each fold has its share of both.
        """
        arrays = store.arrays
        seen = np.isin(arrays.sample_split, [SPLIT_CODES["train"], SPLIT_CODES["tuning"]])
        found = np.full(len(seen), -1)
        if not seen.any():  # new subjects, whose outcomes nobody knows
            return found
        subjects, row = np.unique(arrays.sample_subject[seen], return_inverse=True)
        positive = np.zeros(len(subjects), bool)
        np.logical_or.at(positive, row, arrays.sample_label[seen, 0] == 1)
        order = np.lexsort((hash_subjects(arrays.subject_id[subjects], self.seed), positive))
        fold = np.empty(len(subjects), np.int64)
        fold[order] = np.arange(len(subjects)) % self.members
        found[seen] = fold[row]
        return found

    def store_of(self, store: Store, number: int) -> Store:
        """The store as a member sees it: its fold is `tuning`, the other folds are `train`.

        Raises:
            DataError: If a fold would be empty.
        """
        fold = self.of_samples(store)
        if missing := set(range(self.members)) - set(fold.tolist()):
            raise DataError(
                f"members_by=folds: {self.members} members, but too few subjects to learn from for fold "
                f"{min(missing) + 1}; take fewer members"
            )
        split = store.arrays.sample_split.copy()
        split[fold >= 0] = SPLIT_CODES["train"]
        split[fold == number] = SPLIT_CODES["tuning"]
        return replace(store, arrays=replace(store.arrays, sample_split=split))
