"""The description of tables: which column is the subject, the time, the code, the value."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ehrseq.errors import DataError, suggest

# {column}, {column:lookup}, {column|what stands for an empty cell}
_FIELD = re.compile(r"\{([^{}:|]+)(?::([^{}:|]+))?(?:\|([^{}:|]*))?\}")
TIME_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d")
# A cell that says that there is nothing. "NA" is not among them: it may be sodium.
NULLS = ("", "NULL", "null", "NaN", "nan")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventSpec(_Part):
    """How a row becomes an event.

    Attributes:
        code: Text with `{column}` where a cell goes. An empty cell gives `UNK`, or what stands behind a bar:
            `{unit|none}`. `{item:labs}` puts what the lookup `labs` says of the cell.
        time: Column of the time, or a template as of codes; of several, the first that is not empty. None for static
            facts.
        date_only: Where a date without a time lies: at the "end" of the day, so that nothing is known before it
            happened, or at its "start".
        value: Column of the number, or a number for all.
        text: Column of the text; the same as `value` takes what is not a number.
        where: Only rows whose cells are among these, by column.
        where_not: Only rows whose cells are not among these, by column.
        skip_without: Only rows in which these columns are not empty.
        wide: One event a column: the column and its code (with `{column}` of others), or a list of columns that are
            their own codes. Empty cells make no event.
    """

    code: str | None = None
    time: str | tuple[str, ...] | None = None
    date_only: Literal["start", "end"] = "end"
    value: str | float | None = None
    text: str | None = None
    where: dict[str, tuple[str, ...] | str] = {}
    where_not: dict[str, tuple[str, ...] | str] = {}
    skip_without: tuple[str, ...] = ()
    wide: dict[str, str] | tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "EventSpec":
        if (self.code is None) == (self.wide is None):
            raise ValueError("give either code, for one event a row, or wide, for one event a column")
        if self.wide is not None and (self.value is not None or self.text is not None):
            raise ValueError("wide takes the cells as values; leave out value and text")
        return self

    def columns(self) -> set[str]:
        """All columns that are read."""
        names = {self.text, *self.where, *self.where_not, *self.skip_without, *(self.wide or ())}
        if isinstance(self.value, str):
            names.add(self.value)
        for time in self.times():
            names.update(fields_of(time) or [time])
        for template in (self.code, *(self.wide.values() if isinstance(self.wide, dict) else ())):
            names.update(fields_of(template or ""))
        return {name for name in names if name is not None}

    def times(self) -> tuple[str, ...]:
        """Columns or templates of the time."""
        return (self.time,) if isinstance(self.time, str) else self.time or ()


class TableSpec(_Part):
    """One table, or several files of the same columns.

    Attributes:
        file: Name or pattern (`labs*.csv`) below the folder.
        subject: Column of the subject's id.
        events: What its rows become.
        separator: Between cells; guessed from the suffix where it is not given.
        time_formats: Tried in this order; strftime, as polars has it. A format with `%z` reads times with offsets.
        time_zone: What times without an offset are in, such as `Europe/Berlin`; they are stored in UTC. None: they are
            stored as they stand.
        decimal: The decimal mark.
        nulls: Cells that say that there is nothing.
    """

    file: str
    subject: str
    events: Annotated[tuple[EventSpec, ...], Field(min_length=1)]
    separator: str | None = None
    time_formats: tuple[str, ...] = TIME_FORMATS
    time_zone: str | None = None
    decimal: Literal[".", ","] = "."
    nulls: tuple[str, ...] = NULLS

    def columns(self) -> list[str]:
        """All columns that are read, sorted."""
        return sorted({self.subject}.union(*(event.columns() for event in self.events)))


class LookupSpec(_Part):
    """A table that translates cells, such as item numbers into names.

    Attributes:
        file: Name below the folder.
        key: Column of what is translated.
        value: Template of what it is translated into.
        separator: Between cells; guessed from the suffix where it is not given.
    """

    file: str
    key: str
    value: str
    separator: str | None = None


class Description(_Part):
    """All tables of a dataset.

    Attributes:
        name: Of the dataset.
        tables: By a name for messages.
        lookups: By the name that templates use.
        bad_rows: "error" stops at the first row that does not fit; "drop" leaves such rows out and counts them, as long
            as they are fewer than `bad_share` of a table.
        bad_share: See `bad_rows`.
    """

    name: str = "tables"
    tables: Annotated[dict[str, TableSpec], Field(min_length=1)]
    lookups: dict[str, LookupSpec] = {}
    bad_rows: Literal["error", "drop"] = "error"
    bad_share: Annotated[float, Field(gt=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _check(self) -> "Description":
        for name, table in self.tables.items():
            for event in table.events:
                templates = [event.code or "", *(event.wide.values() if isinstance(event.wide, dict) else ())]
                for piece in (piece for template in templates for piece in split_template(template)):
                    if piece.lookup and piece.lookup not in self.lookups:
                        raise ValueError(f"table {name} uses the lookup {piece.lookup!r}, which is not under lookups")
        return self


def read_description(path: Path) -> Description:
    """Read and check a description.

    Raises:
        DataError: If it is missing, not YAML, or does not make sense, with the key.
    """
    try:
        plain: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"source.description={path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict):
        raise DataError(f"{path}: expected `tables:` at the top; see docs/tables.md")
    return check_description(plain, path)


def check_description(plain: dict[str, Any], where: Path | str) -> Description:
    """A description from plain YAML types.

    Raises:
        DataError: If it does not make sense, with the key.
    """
    try:
        return Description.model_validate(plain)
    except ValidationError as error:
        fault = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")[0]
        key = ".".join(str(part) for part in fault["loc"])
        message = str(fault["msg"]).removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            model = Description if len(fault["loc"]) == 1 else EventSpec if "events" in fault["loc"] else TableSpec
            message = f"unknown key; {suggest(str(fault['loc'][-1]), list(model.model_fields))}"
        raise DataError(f"{where}, {key}: {message}") from error


def fields_of(template: str) -> list[str]:
    """The columns in a template."""
    return [match[0] for match in _FIELD.findall(template)]


@dataclass(frozen=True)
class Piece:
    """One piece of a template: fixed text, or a column.

    Attributes:
        text: The text.
        column: The column.
        lookup: What translates its cells; "" for nothing.
        empty: What stands for an empty cell.
    """

    text: str = ""
    column: str = ""
    lookup: str = ""
    empty: str = "UNK"


def split_template(template: str) -> list[Piece]:
    """The pieces of a template, in order."""
    pieces, end = [], 0
    for match in _FIELD.finditer(template):
        if match.start() > end:
            pieces.append(Piece(template[end : match.start()]))
        pieces.append(Piece(column=match[1], lookup=match[2] or "", empty="UNK" if match[3] is None else match[3]))
        end = match.end()
    if end < len(template):
        pieces.append(Piece(template[end:]))
    return pieces
