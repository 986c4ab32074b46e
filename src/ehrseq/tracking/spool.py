"""The local, append-only record of a run's metrics: what MLflow gets is read from here.

A server that is slow, away or dying never touches the training, and nothing is lost: what was not sent is still here.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Metrics of one step, with the time (milliseconds since 1970) at which they were first recorded."""

    step: int
    timestamp: int
    values: dict[str, float]


class Spool:
    """Metrics of one run in a JSON-lines file.

    Args:
        path: The file; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._epochs: set[int] | None = None

    def clear(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self._epochs = None

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics durably; of an epoch (a step from 1) once, though a training that goes on tells them again."""
        if self._epochs is None:
            mend(self.path)
            self._epochs = {entry.step for entry in self.read() if entry.step}
        if step in self._epochs:
            return
        if step:
            self._epochs.add(step)
        entry = Entry(step, time.time_ns() // 1_000_000, dict(values))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry._asdict()) + "\n")

    def read(self, start: int = 0) -> list[Entry]:
        """The entries from number `start` on; a line cut short by a kill is left out."""
        return [Entry(**line) for line in read_lines(self.path, start)]


def read_lines(path: Path, start: int = 0) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file from number `start` on; one cut short by a kill is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[start:]:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def mend(path: Path) -> None:
    """Take off a line that was cut short by a kill, so that the next one does not hang on to it."""
    if path.is_file():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
