"""What every source offers: a fingerprint of its input, and the writing of a MEDS dataset."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Progress = Callable[[int, int], None]  # (done, all), in units of the source's own


@runtime_checkable
class Source(Protocol):
    """Raw data that can be turned into a MEDS dataset with labels."""

    name: str

    def fingerprint(self) -> dict[str, Any]:
        """Plain JSON facts that determine the dataset: digests of the input, arguments, version of the adapter.

        Raises:
            DataError: If the input is missing or unreadable.
        """
        ...

    def without_labels(self) -> "Source":
        """The same source, for prediction: outcomes are neither needed nor read."""
        ...

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write `data/`, `metadata/` and `labels/` into an empty folder.

        The labels name one `prediction_time` for each history even where there are no outcomes.

        Args:
            root: The folder, which the caller makes appear atomically.
            progress: Called now and then.

        Returns:
            Counts: subjects, events, labels, and what was repaired or left out.

        Raises:
            DataError: If the input breaks its contract, naming file, row and column.
        """
        ...
