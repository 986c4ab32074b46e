"""Outcome files of PhysioNet 2012: finding and reading them."""

import csv
from pathlib import Path
from typing import NamedTuple

from ehrseq.errors import DataError

_DEATH, _STAY, _SURVIVAL = "In-hospital_death", "Length_of_stay", "Survival"
_OTHERS = {_STAY: "days", _SURVIVAL: "days", "SAPS-I": "points", "SOFA": "points"}


class Outcome(NamedTuple):
    """What became of a stay.

    Attributes:
        death: Whether the patient died in hospital.
        stay_days: Days from admission to the end of the hospital stay; None where unknown (-1) or not given.
        survival_days: Days from admission to death; None where no death is known of (-1) or none is given.
        saps_i: Points of the Simplified Acute Physiology Score (Le Gall et al. 1984); None where unknown.
        sofa: Points of the Sequential Organ Failure Assessment (Vincent et al. 1996); None where unknown.
    """

    death: bool
    stay_days: int | None
    survival_days: int | None
    saps_i: int | None
    sofa: int | None


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


def read_outcomes(paths: list[Path]) -> dict[int, Outcome]:
    """Outcomes by RecordID.

    Raises:
        DataError: Naming file, row and column of what is missing, doubled, not 0 or 1, or no number of days.
    """
    outcomes: dict[int, Outcome] = {}
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
            if record in outcomes:
                raise DataError(f"{where}: stay {record} is listed twice, first in {first[record]}; keep one row")
            others = (_known(where, name, cells[name]) if name in columns else None for name in _OTHERS)
            outcomes[record], first[record] = Outcome(bool(death), *others), where
    return outcomes


def _known(where: str, column: str, text: str | None) -> int | None:
    """A number of days or points; None where it is -1."""
    number = _integer(where, column, text)
    if number < -1:
        raise DataError(f"{where}, column {column}: {number} is neither a number of {_OTHERS[column]} nor -1 (unknown)")
    return None if number == -1 else number


def _integer(where: str, column: str, text: str | None) -> int:
    try:
        return int((text or "").strip())
    except ValueError as error:
        raise DataError(f"{where}, column {column}: {text!r} is not a whole number") from error
