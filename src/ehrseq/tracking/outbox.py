"""What MLflow is to be told beside metrics, kept in the run folder until it has been."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ehrseq.tracking.spool import mend, read_lines


class Outbox:
    """An append-only list of messages in a JSON-lines file: `{"kind": ..., ...}`, each of which may be sent twice.

    Args:
        folder: The run folder; the list is in its folder `tracking/`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "tracking" / "outbox.jsonl"
        self._copies = folder / "tracking" / "files"
        self._mended = False

    def clear(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self._copies, ignore_errors=True)

    def append(self, kind: str, **content: Any) -> None:
        """Note a message durably; numbers that are none (NaN) are allowed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._mended:
            mend(self.path)
            self._mended = True
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **content}, default=str) + "\n")

    def append_files(self, files: Mapping[str, Path]) -> None:
        """Note files to be uploaded; of those outside the run folder, which may be gone by then, a copy is kept."""
        named = {}
        root = self.folder.resolve()
        for name, file in files.items():
            place = file.resolve()
            if not place.is_relative_to(root):
                place = self._copies.resolve() / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
            named[name] = place.relative_to(root).as_posix()
        self.append("artifacts", files=named)

    def read(self, start: int = 0) -> list[dict[str, Any]]:
        """The messages from number `start` on; a line cut short by a kill is left out."""
        return read_lines(self.path, start)
