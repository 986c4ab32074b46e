"""Outcome files of PhysioNet 2012: finding and reading them.

Only `In-hospital_death` is read. `SAPS-I`, `SOFA`, `Length_of_stay` and `Survival` are outcomes too, never inputs.
"""

import csv
from pathlib import Path

from ehrseq.errors import DataError

_DEATH = "In-hospital_death"


def find_outcomes(places: list[Path], given: Path | None) -> list[Path]:
    """The outcome files of some sets: the given one, or `Outcomes*.txt` inside or beside them.

    Args:
        places: Folders or archives of stay files, such as `set-a` or `set-a.tar.gz`.
        given: What the user named.

    Raises:
        DataError: If the given file is missing, or nothing or too much is found.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(f"source.outcomes={given} does not exist")
        return [given]
    found: dict[Path, None] = {}
    for place in places:
        letter = place.name.split(".")[0].removeprefix("set-").lower()
        near = sorted(place.glob("Outcomes*.txt")) if place.is_dir() else []
        near = near or sorted(place.parent.glob("Outcomes*.txt"))
        own = [path for path in near if path.stem.lower() == f"outcomes-{letter}"]
        if not near:
            raise DataError(
                f"no Outcomes*.txt in or beside {place}; name it with source.outcomes=... (only `predict` needs none)"
            )
        if not own and len(near) > 1:
            names = ", ".join(path.name for path in near)
            raise DataError(f"several outcome files for {place} ({names}); choose one with source.outcomes=...")
        found[(own or near)[0]] = None
    return list(found)


def read_outcomes(paths: list[Path]) -> dict[int, bool]:
    """In-hospital death by RecordID.

    Raises:
        DataError: Naming file, row and column of what is missing, doubled or not 0 or 1.
    """
    deaths: dict[int, bool] = {}
    first: dict[int, str] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        for wanted in ("RecordID", _DEATH):
            if wanted not in columns:
                raise DataError(f"{path}, row 1: no column {wanted}; found {', '.join(columns) or 'nothing'}")
        for row, cells in enumerate(reader, start=2):
            where = f"{path}, row {row}"
            record = _integer(where, "RecordID", cells["RecordID"])
            death = _integer(where, _DEATH, cells[_DEATH])
            if death not in (0, 1):
                raise DataError(f"{where}, column {_DEATH}: {death} is neither 0 nor 1")
            if record in deaths:
                raise DataError(f"{where}: stay {record} is listed twice, first in {first[record]}; keep one row")
            deaths[record], first[record] = bool(death), where
    return deaths


def _integer(where: str, column: str, text: str | None) -> int:
    try:
        return int((text or "").strip())
    except ValueError as error:
        raise DataError(f"{where}, column {column}: {text!r} is not a whole number") from error
