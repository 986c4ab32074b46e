"""Which histories make which batch: a pure function of (seed, epoch), or of the lengths alone for evaluation.

Among several ranks every rank gets the same number of batches, and every history is in exactly one of them.
"""

from collections.abc import Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

# A pool of so many batches is sorted by length: little padding, and still another mix in every epoch.
_POOL = 50

Batches = list[NDArray[np.int64]]


class ShuffledBatches(Sampler[NDArray[np.int64]]):
    """Shuffled, length-bucketed batches for training.

    Args:
        lengths: Steps of each history, (M,).
        batch_size: Histories a batch.
        seed: Decides the order together with the epoch.
        batch_tokens: If given, a batch holds as many histories as pad to so many steps, in place of `batch_size`.
        max_padding: Batches are split, where it saves most, until at most this share of all steps is padding.
        rank: Which of `ranks` processes asks.
        ranks: Among how many the batches are shared.

    Attributes:
        epoch: Set it before each epoch; the order depends on (seed, epoch) only.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        batch_size: int,
        seed: int,
        batch_tokens: int | None = None,
        max_padding: float | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.max_padding = max_padding
        self.rank, self.ranks = rank, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of batches of this rank in this epoch."""
        if self.batch_tokens is None and self.max_padding is None and self.ranks == 1:
            return ceil(len(self.lengths) / self.batch_size)
        return len(self._batches()) // self.ranks

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        yield from self._batches()[self.rank :: self.ranks]

    def _batches(self) -> Batches:
        """The batches of all ranks, in their order."""
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        if self.batch_tokens is None:
            pool = self.batch_size * _POOL
        else:
            pool = max(int(_POOL * self.batch_tokens / max(self.lengths.mean(), 1)), 1)
        batches: Batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += _divide(part, self.lengths[part], self.batch_size, self.batch_tokens)
        if self.max_padding is not None:
            batches = _split_padded(batches, self.lengths, self.max_padding)
        batches = _share(batches, self.ranks)
        return [batches[index] for index in generator.permutation(len(batches))]


class OrderedBatches(Sampler[NDArray[np.int64]]):
    """Batches by length, longest first: every history once, and a batch too large for memory is met at once.

    Args:
        lengths: Steps of each history, (M,).
        batch_size: Histories a batch.
        rank: Which of `ranks` processes asks.
        ranks: Among how many the batches are shared.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        order = np.argsort(-lengths, kind="stable")
        batches = _divide(order, lengths[order], batch_size, None)
        self.batches = _share(batches, ranks)[rank::ranks]

    def __len__(self) -> int:
        """The number of batches of this rank."""
        return len(self.batches)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        yield from self.batches


def padding_share(lengths: NDArray[np.int64], batches: Batches) -> float:
    """The share of all steps of these batches that is padding."""
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / max(padded, 1)


def _divide(order: NDArray[np.int64], lengths: NDArray[np.int64], size: int, tokens: int | None) -> Batches:
    """Cut an order, sorted by length, into batches of `size` histories, or of `tokens` padded steps.

    Args:
        order: (M,) positions.
        lengths: (M,) their lengths; ascending where `tokens` is given.
        size: Histories a batch.
        tokens: Padded steps a batch; one history may have more.
    """
    if tokens is None:
        return [order[start : start + size] for start in range(0, len(order), size)]
    batches, start = [], 0
    while start < len(order):
        # Ascending: the last history decides how far the others are padded.
        padded = lengths[start:] * np.arange(1, len(order) - start + 1)
        end = start + max(int(np.searchsorted(padded, tokens, side="right")), 1)
        batches.append(order[start:end])
        start = end
    return batches


def _split_padded(batches: Batches, lengths: NDArray[np.int64], share: float) -> Batches:
    """Split batches, sorted by length, where it saves most padding, until at most `share` of all steps is padding."""
    saved: list[int] = []  # by the best split of each batch
    where: list[int] = []
    padded = real = 0

    def look(batch: NDArray[np.int64]) -> tuple[int, int]:
        length = lengths[batch]
        # Cut before position i: the i shorter ones are padded to the longest among them only.
        gains = np.arange(1, len(batch)) * (length[-1] - length[:-1])
        best = int(np.argmax(gains)) if len(gains) else 0
        return (int(gains[best]), best + 1) if len(gains) else (0, 1)

    batches = list(batches)
    for batch in batches:
        gain, cut = look(batch)
        saved.append(gain)
        where.append(cut)
        padded += len(batch) * int(lengths[batch].max())
        real += int(lengths[batch].sum())
    while padded - real > share * padded:
        index = int(np.argmax(saved))
        if not saved[index]:
            break
        padded -= saved[index]
        halves = [batches[index][: where[index]], batches[index][where[index] :]]
        looks = [look(half) for half in halves]
        batches[index : index + 1] = halves
        saved[index : index + 1] = [gain for gain, _ in looks]
        where[index : index + 1] = [cut for _, cut in looks]
    return batches


def _share(batches: Batches, ranks: int) -> Batches:
    """Split the largest batches until all ranks get as many; where there are too few histories for that, join the last.

    Raises:
        ValueError: If there are fewer histories than ranks.
    """
    batches = list(batches)
    histories = sum(map(len, batches))
    if histories < ranks:
        raise ValueError(f"{histories} histories cannot be shared among {ranks} processes")
    can_split = histories >= -(-len(batches) // ranks) * ranks
    while len(batches) % ranks:
        if can_split:
            largest = max(range(len(batches)), key=lambda index: len(batches[index]))
            half = len(batches[largest]) // 2
            batches[largest : largest + 1] = [batches[largest][:half], batches[largest][half:]]
        else:
            batches[-2:] = [np.concatenate(batches[-2:])]
    return batches
