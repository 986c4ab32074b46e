"""What every source offers: a fingerprint of its input, and the writing of a MEDS dataset."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ehrseq.errors import DataError

Progress = Callable[[int, int], None]  # (done, all), in units of the source's own


class Source(ABC):
    """Raw data that can be turned into a MEDS dataset with labels."""

    name: str

    @property
    def dataset(self) -> Path | None:
        """Where a MEDS dataset lies that is used as it is; None: `write` makes one.

        Raises:
            DataError: If it is not MEDS.
        """
        return None

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Plain JSON facts that determine the dataset: digests of the input, arguments, version of the adapter.

        Raises:
            DataError: If the input is missing or unreadable.
        """

    def without_labels(self) -> "Source":
        """The same source, for prediction: outcomes are neither needed nor read."""
        return self

    @abstractmethod
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


def require_path(path: str | None, what: str) -> Path:
    """What `source.path` names.

    Args:
        path: As it was set.
        what: What it should be, for the message.

    Raises:
        DataError: If it is not set or does not exist.
    """
    found = _require_set(path, what)
    if not found.exists():
        raise DataError(f"source.path={found} does not exist")
    return found


def require_folder(path: str | None, what: str) -> Path:
    """The folder that `source.path` names; see `require_path`.

    Raises:
        DataError: If it is not set or not a folder.
    """
    found = _require_set(path, what)
    if not found.is_dir():
        raise DataError(f"source.path={path} is not a folder")
    return found


def _require_set(path: str | None, what: str) -> Path:
    if not path:
        raise DataError(f"source.path is not set: give {what}, source.path=...")
    return Path(path).expanduser()
