"""The OMOP Common Data Model 5.4 (https://ohdsi.github.io/CommonDataModel), as CSV or Parquet tables.

Codes are `<KIND>//<vocabulary>//<code>` where the vocabulary table `concept` is at hand, else `<KIND>//<concept id>`.
Inpatient visits become HOSPITAL_ADMISSION and HOSPITAL_DISCHARGE, other visits VISIT_START and VISIT_END. A date
without a time counts as the end of that day: nothing is known before it happened.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehrseq.errors import DataError
from ehrseq.files import digest_files
from ehrseq.sources.base import Progress, Source, require_folder
from ehrseq.sources.tables import write_metadata, write_tables
from ehrseq.sources.tables_convert import Lookup
from ehrseq.sources.tables_read import SUFFIXES, column_names
from ehrseq.sources.tables_spec import Description, LookupSpec, check_description

# Inpatient visit; emergency room and inpatient visit; inpatient hospital; inpatient nursing and critical care units.
INPATIENT = ("9201", "262", "8717", "32037", "581379")
TABLES = (
    "person",
    "visit_occurrence",
    "condition_occurrence",
    "drug_exposure",
    "measurement",
    "procedure_occurrence",
    "observation",
    "death",
)
_CONCEPT = "concept"
_LOOKUP = ":concept"


@dataclass(frozen=True)
class OmopSource(Source):
    """A folder of OMOP tables; `person` is required, the others are read where they are.

    Attributes:
        path: The folder; a table is `<name>.csv`, `.tsv` or `.parquet`, or a folder `<name>/` of such files, in small
            or capital letters.
        vocabulary: Folder of the table `concept`; None: the one in `path`, if it is there.
    """

    path: str | None
    vocabulary: str | None = None

    name = "omop"

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the tables."""
        folder, files, concepts = self._open()
        digests = {name: digest_files(found, folder) for name, found in files.items()}
        digests |= {_CONCEPT: digest_files(concepts, concepts[0].parent)} if concepts else {}
        return {"adapter": self.name, "version": 1, "tables": digests}

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write the MEDS dataset; see `Source.write`."""
        _, files, concepts = self._open()
        known = Lookup({})
        for path in concepts:
            columns = _columns(path)
            value = _cell(_need(path, columns, "vocabulary_id")) + "//" + _cell(_need(path, columns, "concept_code"))
            spec = LookupSpec(file=path.name, key=_need(path, columns, "concept_id"), value=value)
            # The vocabulary comes tab-separated under the name .csv.
            spec = spec.model_copy(update={"separator": _separator(path)})
            known = Lookup({**known.words, **Lookup.read(path.parent, _CONCEPT, spec).words})
        description = self._describe(files)
        counts = write_tables(description, files, {_CONCEPT: known}, root, progress)
        write_metadata(root, sorted(counts.codes), description.name)
        return {**counts.numbers, "concepts_known": len(known.words)}

    def _open(self) -> tuple[Path, dict[str, list[Path]], list[Path]]:
        """The folder, the files of each table, the files of the vocabulary."""
        folder = require_folder(self.path, "the folder of the OMOP tables")
        files = {name: found for name in TABLES if (found := _find(folder, name))}
        if "person" not in files:
            raise DataError(f"{folder} holds no table person (person.csv or person.parquet); is it an OMOP export?")
        if len(files) == 1:
            raise DataError(f"{folder} holds person but none of {', '.join(TABLES[1:])}: there are no events")
        where = Path(self.vocabulary).expanduser() if self.vocabulary else folder
        concepts = _find(where, _CONCEPT) if where.is_dir() else []
        if self.vocabulary and not concepts:
            raise DataError(f"source.vocabulary={self.vocabulary} holds no table concept")
        return folder, files, concepts

    def _describe(self, files: dict[str, list[Path]]) -> Description:
        """The tables in the language of `sources.tables`, with the columns that are there."""
        tables = {}
        for name, paths in files.items():
            table = _Table(paths[0])
            events = getattr(self, f"_{name}")(table)
            tables[name] = {
                "file": paths[0].name,
                "subject": table("person_id"),
                "separator": _separator(paths[0]),
                "events": events,
            }
        plain = {"name": "OMOP", "tables": tables, "lookups": {_CONCEPT: {"file": "", "key": "", "value": ""}}}
        return check_description(plain, "OMOP")

    def _person(self, table: "_Table") -> list[dict[str, Any]]:
        parts = [table.get(name) for name in ("year_of_birth", "month_of_birth", "day_of_birth")]
        times = [table.get("birth_datetime")]
        if parts[0]:
            # Where month or day are withheld, the first.
            month, day = (_cell(part, "|01") if part else "01" for part in parts[1:])
            times.append(f"{_cell(parts[0])}-{month}-{day}")
        birth = [time for time in times if time]
        events: list[dict[str, Any]] = []
        if birth:
            events.append({"code": "MEDS_BIRTH", "time": birth, "date_only": "start"})
        for kind, column in (("GENDER", "gender"), ("RACE", "race"), ("ETHNICITY", "ethnicity")):
            if name := table.get(f"{column}_concept_id"):
                events.append({"code": f"{kind}//{_cell(name, _LOOKUP)}", "skip_without": [name]})
        return events

    def _visit_occurrence(self, table: "_Table") -> list[dict[str, Any]]:
        concept = table("visit_concept_id")
        events = []
        for when, inpatient, other in (
            ("start", "HOSPITAL_ADMISSION", "VISIT_START"),
            ("end", "HOSPITAL_DISCHARGE", "VISIT_END"),
        ):
            times = table.times(f"visit_{when}")
            for kind, wanted in ((inpatient, True), (other, False)):
                events.append(
                    {
                        "code": f"{kind}//{_cell(concept, _LOOKUP)}",
                        "time": times,
                        ("where" if wanted else "where_not"): {concept: list(INPATIENT)},
                        # A visit that has not ended has no end.
                        "skip_without": [times[-1]] if when == "end" else [],
                    }
                )
        return events

    def _condition_occurrence(self, table: "_Table") -> list[dict[str, Any]]:
        return table.coded("CONDITION", "condition", table.times("condition_start"))

    def _drug_exposure(self, table: "_Table") -> list[dict[str, Any]]:
        return table.coded("DRUG", "drug", table.times("drug_exposure_start"), value=table.get("quantity"))

    def _procedure_occurrence(self, table: "_Table") -> list[dict[str, Any]]:
        return table.coded("PROCEDURE", "procedure", table.times("procedure"))

    def _measurement(self, table: "_Table") -> list[dict[str, Any]]:
        unit = table.get("unit_concept_id")
        suffix = f"//{_cell(unit, _LOOKUP)}" if unit else ""
        times = table.times("measurement")
        return table.coded(
            "MEASUREMENT", "measurement", times, suffix, table.get("value_as_number"), table.get("value_source_value")
        )

    def _observation(self, table: "_Table") -> list[dict[str, Any]]:
        times = table.times("observation")
        return table.coded(
            "OBSERVATION", "observation", times, "", table.get("value_as_number"), table.get("value_as_string")
        )

    def _death(self, table: "_Table") -> list[dict[str, Any]]:
        return [{"code": "MEDS_DEATH", "time": table.times("death")}]


class _Table:
    """The columns of one table, found whatever their case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = _columns(path)

    def get(self, name: str) -> str | None:
        """A column as the file writes it, or None."""
        return self.columns.get(name)

    def __call__(self, name: str) -> str:
        """A column that must be there.

        Raises:
            DataError: If it is not.
        """
        return _need(self.path, self.columns, name)

    def times(self, name: str) -> list[str]:
        """Columns of a time: `<name>_datetime` where there is one, then `<name>_date`."""
        exact = self.get(f"{name}_datetime")
        return [exact, self(f"{name}_date")] if exact else [self(f"{name}_date")]

    def coded(
        self,
        kind: str,
        name: str,
        times: list[str],
        suffix: str = "",
        value: str | None = None,
        text: str | None = None,
    ) -> list[dict[str, Any]]:
        """One event a row, by its standard concept; rows that none was found for by their source value."""
        concept, source = self(f"{name}_concept_id"), self.get(f"{name}_source_value")
        common = {"time": times, "value": value, "text": text}
        mapped = {"code": f"{kind}//{_cell(concept, _LOOKUP)}{suffix}", **common}
        if source is None:
            return [mapped]
        unmapped = {"code": f"{kind}//SOURCE//{_cell(source)}{suffix}", **common, "where": {concept: ["0"]}}
        return [{**mapped, "where_not": {concept: ["0"]}}, unmapped]


def _cell(column: str, more: str = "") -> str:
    """A column in a template."""
    return "{" + column + more + "}"


def _columns(path: Path) -> dict[str, str]:
    """The columns of a file: small letters to what stands there."""
    return {name.lower(): name for name in column_names(path, _separator(path))}


def _need(path: Path, columns: dict[str, str], name: str) -> str:
    if name not in columns:
        raise DataError(
            f"{path}, row 1: no column {name}, which OMOP CDM 5.4 requires; found {', '.join(columns)[:200]}"
        )
    return columns[name]


def _separator(path: Path) -> str | None:
    """Tab where a .csv has tabs in its first row, as the vocabulary downloads have; else None, by the suffix."""
    if path.suffix.lower() != ".csv":
        return None
    with path.open("rb") as file:
        return "\t" if b"\t" in file.readline() else None


def _find(folder: Path, name: str) -> list[Path]:
    """The files of a table, whatever the case of their names."""
    found = []
    for path in sorted(folder.iterdir()):
        base = path.name.lower().split(".")[0]
        if base == name and path.is_dir():
            found += sorted(item for item in path.rglob("*") if item.name.lower().endswith(SUFFIXES))
        elif base == name and path.name.lower().endswith(SUFFIXES):
            found.append(path)
    return found
