"""Writing a store: every shard of the source writes its own stretch of the event files, in any order or at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ehrseq.files import write_json
from ehrseq.store.format import ARRAY_NAMES, DTYPES, EVENT_ARRAYS, META, Arrays


def make_room(folder: Path, events: int) -> bool:
    """Make the event files for so many events; room that is never written takes no space on disk.

    Args:
        folder: An existing folder. Files of this very size that are there already are kept.
        events: How many.

    Returns:
        Whether all files were there already.
    """
    there = True
    for name in EVENT_ARRAYS:
        path = folder / f"{name}.npy"
        header = _header(name, events)
        size = len(header) + events * np.dtype(DTYPES[name]).itemsize
        if path.exists() and path.stat().st_size == size and _begins_with(path, header):
            continue
        there = False
        with path.open("wb") as file:
            file.write(header)
            file.truncate(size)
    return there


def _begins_with(path: Path, header: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _header(name: str, events: int) -> bytes:
    """The first bytes of an .npy file with one dimension."""
    buffer = BytesIO()
    kind = np.lib.format.dtype_to_descr(np.dtype(DTYPES[name]))
    facts = {"descr": kind, "fortran_order": False, "shape": (events,)}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


class PartWriter:
    """Writes the events of one shard's subjects, chunk after chunk; never holds more than one chunk in memory.

    Args:
        room: The folder of the event files, see `make_room`.
        folder: An existing folder for what is kept of each subject.
        events: Of all shards.
        start: Where the shard's stretch begins.
    """

    def __init__(self, room: Path, folder: Path, events: int, start: int) -> None:
        self.room, self.folder = room, folder
        self.events, self.start = events, start
        self._subjects: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._statics: list[NDArray[np.float32]] = []

    def __enter__(self) -> "PartWriter":
        self._files: dict[str, BinaryIO] = {}
        for name in EVENT_ARRAYS:
            file = (self.room / f"{name}.npy").open("r+b", buffering=0)
            file.seek(len(_header(name, self.events)) + self.start * np.dtype(DTYPES[name]).itemsize)
            self._files[name] = file
        return self

    def append(
        self,
        subject: NDArray[np.int64],
        count: NDArray[np.int64],
        static: NDArray[np.float32],
        **events: NDArray[Any],
    ) -> None:
        """Add U subjects.

        Args:
            subject: (U,) ids.
            count: (U,) events of each.
            static: (U, S) static features.
            **events: The `EVENT_ARRAYS`, subject after subject, sorted by time.
        """
        self._subjects.append(subject)
        self._counts.append(count)
        self._statics.append(static)
        for name in EVENT_ARRAYS:
            data = memoryview(np.ascontiguousarray(events[name], DTYPES[name]).view(np.uint8))  # type: ignore[arg-type]
            while data:  # an unbuffered write may take less than all
                data = data[self._files[name].write(data) :]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            if kind is None:
                os.fdatasync(file.fileno())
            file.close()
        if kind is None:
            empty = np.zeros(0, np.int64)
            np.save(self.folder / "subject.npy", np.concatenate([empty, *self._subjects]))
            np.save(self.folder / "count.npy", np.concatenate([empty, *self._counts]))
            if self._statics:
                np.save(self.folder / "static.npy", np.concatenate(self._statics))


@dataclass(frozen=True)
class Part:
    """What a finished shard left beside its events.

    Attributes:
        folder: Where it is.
        subject: (U,) ids.
        count: (U,) events of each.
        static: (U, S), or None for a shard without subjects.
    """

    folder: Path
    subject: NDArray[np.int64]
    count: NDArray[np.int64]
    static: NDArray[np.float32] | None


def read_part(folder: Path) -> Part:
    """Open what a `PartWriter` finished."""
    static = folder / "static.npy"
    return Part(
        folder,
        np.load(folder / "subject.npy", allow_pickle=False),
        np.load(folder / "count.npy", allow_pickle=False),
        np.load(static, allow_pickle=False) if static.is_file() else None,
    )


def write_store(
    folder: Path,
    arrays: Arrays,
    codes: Sequence[str],
    statics: Sequence[str],
    numeric: Sequence[bool],
    subjects: Sequence[int],
    **meta: Any,
) -> None:
    """Write what is not there yet of a store's arrays, and `meta.json`.

    Args:
        folder: An existing folder, which the caller makes appear atomically; event files may be in it already.
        arrays: All arrays.
        codes: Names of the timed codes.
        statics: Names of the static features.
        numeric: Whether each code carries numbers.
        subjects: Train subjects that have each code.
        **meta: Plain JSON to keep in `meta.json`.
    """
    for name in ARRAY_NAMES:
        path = folder / f"{name}.npy"
        if not path.exists():
            np.save(path, np.ascontiguousarray(getattr(arrays, name), dtype=DTYPES[name]), allow_pickle=False)
    shapes = {name: list(getattr(arrays, name).shape) for name in ARRAY_NAMES}
    tables = {"codes": list(codes), "statics": list(statics), "numeric": list(numeric), "subjects": list(subjects)}
    write_json(folder / META, {**tables, "shapes": shapes, **meta})
