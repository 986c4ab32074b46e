"""Which histories make which batch: a pure function of (seed, epoch), or of the lengths alone for evaluation.

Among several ranks every rank gets the same number of batches, and every history is in exactly one of them. So it is
among epochs: a trainer counts the batches once, and what is beyond that number would never be seen.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

# A pool of so many batches is sorted by length: little padding, and still another mix in every epoch.
_POOL = 50
# Padded steps that are scored at once: more brings no speed, and memory grows with it.
_SCORED = 8_192
# Epochs need more or fewer batches to keep to the same padding: they get as many as the first, and one in so many more.
_SPARE = 50

Batches = list[NDArray[np.int64]]


class ShuffledBatches(Sampler[NDArray[np.int64]]):
    """Shuffled, length-bucketed batches for training.

    Args:
        lengths: Steps of each history, (M,).
        batch_size: Histories a batch.
        seed: Decides the order together with the epoch.
        batch_tokens: If given, a batch holds as many histories as pad to so many steps, in place of `batch_size`.
        max_padding: Batches are split, where it saves most, until at most this share of all steps is padding; by the
            number that it takes in the first epoch, and 2% more.
        rank: Which of `ranks` processes asks.
        ranks: Among how many the batches are shared.
        accumulate: Each rank gets a multiple of so many.

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
        accumulate: int = 1,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.max_padding = max_padding
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        self._resumed = 0, 0
        first = len(self._cut(0, max_padding))
        varies = batch_tokens is not None or first > -(-len(lengths) // batch_size)
        count = min(first + (-(-first // _SPARE) if varies else 0), len(lengths))
        parts = ranks * accumulate
        self.count = -(-count // parts) * parts
        if self.count > len(lengths):
            self.count = count // parts * parts
        if not self.count and len(lengths):
            raise ValueError(f"{len(lengths)} histories cannot be shared among {parts} processes or parts of a batch")

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def resume(self, epoch: int, done: int) -> None:
        """Begin with this epoch, after so many of its batches."""
        self.epoch, self._resumed = epoch, (epoch, done)

    def __len__(self) -> int:
        """The number of batches of this rank in each whole epoch."""
        return self.count // self.ranks

    def largest(self) -> NDArray[np.int64]:
        """The batch of the first epoch that takes most memory."""
        return max(self._cut(0, self.max_padding), key=lambda batch: len(batch) * int(self.lengths[batch].max()))

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        batches = _to_count(self._cut(self.epoch, None), self.lengths, self.count)
        order = np.random.default_rng([self.seed, self.epoch, 1]).permutation(len(batches))
        epoch, done = self._resumed
        mine = order[self.rank :: self.ranks][done if epoch == self.epoch else 0 :]
        yield from (batches[index] for index in mine)

    def _cut(self, epoch: int, max_padding: float | None) -> Batches:
        """The batches of all ranks, pool by pool, as many as it takes."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths))
        if self.batch_tokens is None:
            size, pool = self.batch_size, self.batch_size * _POOL
        else:
            size = pool = max(int(_POOL * self.batch_tokens / max(self.lengths.mean(), 1)), 1)
        batches: Batches = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += _divide(part, self.lengths[part], size, self.batch_tokens)
        return batches if max_padding is None else _Splits(batches, self.lengths).to_padding(max_padding)


class OrderedBatches(Sampler[NDArray[np.int64]]):
    """Batches by length, longest first: every history once, and a batch too large for memory is met at once.

    Args:
        lengths: Steps of each history, (M,).
        batch_size: Histories a batch, at most; of long ones fewer, so that they pad to at most `_SCORED` steps.
        rank: Which of `ranks` processes asks.
        ranks: Among how many the batches are shared.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, rank: int = 0, ranks: int = 1) -> None:
        order = np.argsort(-lengths, kind="stable")
        batches = _divide(order, lengths[order], batch_size, _SCORED)
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
    """Cut an order, sorted by length one way or the other, into batches.

    Args:
        order: (M,) positions.
        lengths: (M,) their lengths; sorted where `tokens` is given.
        size: Histories a batch, at most.
        tokens: Padded steps a batch, at most, but for those of a single history; None: any number.
    """
    batches, start = [], 0
    while start < len(order):
        own = lengths[start : start + size]
        if tokens is not None:
            padded = np.maximum(own, own[0]) * np.arange(1, len(own) + 1)
            own = own[: max(int(np.searchsorted(padded, tokens, side="right")), 1)]
        batches.append(order[start : start + len(own)])
        start += len(own)
    return batches


class _Splits:
    """Batches, each sorted by length, that are split where it saves most padding.

    Args:
        batches: Positions.
        lengths: (M,) steps of each history.
    """

    def __init__(self, batches: Batches, lengths: NDArray[np.int64]) -> None:
        self.lengths = lengths
        self.batches = list(batches)
        looks = [self._look(batch) for batch in batches]
        self.saved = [gain for gain, _ in looks]  # by the best split of each batch
        self.where = [cut for _, cut in looks]
        self.padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        self.real = sum(int(lengths[batch].sum()) for batch in batches)

    def to_padding(self, share: float) -> Batches:
        """Split until at most this share of all steps is padding."""
        while self.padded - self.real > share * self.padded and self._split():
            pass
        return self.batches

    def to_count(self, count: int) -> Batches:
        """Split until there are so many; where nothing more is saved, the largest batches."""
        while len(self.batches) < count:
            if not self._split():
                self._halve(max(range(len(self.batches)), key=lambda index: len(self.batches[index])))
        return self.batches

    def _look(self, batch: NDArray[np.int64]) -> tuple[int, int]:
        """What the best split of a batch saves, and where it is."""
        length = self.lengths[batch]
        # Cut before position i: the i shorter ones are padded to the longest among them only.
        gains = np.arange(1, len(batch)) * (length[-1] - length[:-1])
        best = int(np.argmax(gains)) if len(gains) else 0
        return (int(gains[best]), best + 1) if len(gains) else (0, 1)

    def _split(self) -> bool:
        """Make the best split of all; False where none saves anything."""
        index = int(np.argmax(self.saved))
        if not self.saved[index]:
            return False
        self.padded -= self.saved[index]
        self._replace(index, self.where[index])
        return True

    def _halve(self, index: int) -> None:
        self._replace(index, len(self.batches[index]) // 2)

    def _replace(self, index: int, cut: int) -> None:
        halves = [self.batches[index][:cut], self.batches[index][cut:]]
        looks = [self._look(half) for half in halves]
        self.batches[index : index + 1] = halves
        self.saved[index : index + 1] = [gain for gain, _ in looks]
        self.where[index : index + 1] = [cut for _, cut in looks]


def _to_count(batches: Batches, lengths: NDArray[np.int64], count: int) -> Batches:
    """As many batches as asked for: split, or, rarely, the smallest neighbours joined."""
    batches = list(batches)
    while len(batches) > count:
        index = min(range(len(batches) - 1), key=lambda index: len(batches[index]) + len(batches[index + 1]))
        joined = np.concatenate(batches[index : index + 2])
        batches[index : index + 2] = [joined[np.argsort(lengths[joined], kind="stable")]]
    return _Splits(batches, lengths).to_count(count) if len(batches) < count else batches


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
