"""What every representation offers: the lengths of histories, and batches cut from the store."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.store.format import Store


class Representation(ABC):
    """Turns histories of a store into batches.

    Attributes:
        store: Where the histories are.
        names: Names of the F features or codes that a batch's numbers refer to.
        bytes_a_step: Memory of one step of one history in a batch; 0 where batches cannot be kept and picked from.
    """

    names: tuple[str, ...]
    bytes_a_step: int = 0

    @property
    def bin_hours(self) -> float | None:
        """Width of a step; None where steps have no width."""
        return None

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names = store.codes

    def units(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The samples that a row of a batch is made for; what else there is among `samples` is in their rows."""
        return samples

    @abstractmethod
    def lengths(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Steps of each sample's history, (M,)."""

    @abstractmethod
    def cut(self, samples: NDArray[np.int64]) -> SequenceBatch:
        """Make a batch.

        Args:
            samples: (B,) sample numbers.
        """

    def _common(self, samples: NDArray[np.int64], lengths: NDArray[np.int64]) -> dict[str, Tensor]:
        """What every batch holds, but `hours_before`."""
        arrays = self.store.arrays
        return {
            "statics": torch.from_numpy(arrays.static[arrays.sample_subject[samples]]),
            "lengths": torch.from_numpy(lengths),
            "targets": torch.from_numpy(arrays.sample_label[samples]),
            "auxiliary": torch.from_numpy(arrays.sample_auxiliary[samples]),
            "samples": torch.from_numpy(samples),
        }
