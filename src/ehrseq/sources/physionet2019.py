"""PhysioNet/CinC Challenge 2019: early prediction of sepsis, one label an ICU hour.

Reyna et al. 2019, "Early Prediction of Sepsis From Clinical Data", doi 10.13026/v64v-d857. A stay is one file
`p000001.psv` with a row an hour. `SepsisLabel` turns 1 six hours before the clinical onset and stays 1.

The files carry hours of the ICU stay and no dates: every stay is laid at `ADMISSION`, and hour n ends n hours later.
What is written in an hour's row is known at its end, which is when that hour's prediction is made.
"""

import io
import math
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrseq.errors import DataError
from ehrseq.meds import schema, write
from ehrseq.sources.archives import Stay, digest_places, is_archive, read_stays
from ehrseq.sources.base import Progress, Source, require_path
from ehrseq.sources.physionet2019_codes import CATEGORIES, COLUMNS, HOUR, LABEL, MEASURED, NUMBERS

ADMISSION = datetime(2000, 1, 1)
TASK = "sepsis"
VERSION = 1  # raised when the same files would give other events

_SUBJECT = schema.SUBJECT_ID


@dataclass(frozen=True)
class PhysioNet2019Source(Source):
    """The stay files of one or both training sets.

    Attributes:
        path: A folder of `.psv` files, a `.tar.gz`, `.tgz`, `.tar` or `.zip` of them, or a folder of such archives or
            folders.
        labelled: False: `SepsisLabel` is neither needed nor read.
    """

    path: str | None
    labelled: bool = field(default=True, kw_only=True)

    name = "physionet2019"

    def without_labels(self) -> Source:
        """The same stays, for prediction."""
        return replace(self, labelled=False)

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the stay files."""
        stays = digest_places(self._places(), ".psv")
        return {"adapter": self.name, "version": VERSION, "stays": stays, "labelled": self.labelled}

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write the MEDS dataset; see `Source.write`."""
        seen: dict[int, str] = {}
        counts = dict.fromkeys(("subjects", "events", "labels"), 0)
        if self.labelled:
            counts["positive_labels"] = 0
        (root / schema.DATA).mkdir()
        (root / schema.LABELS / TASK).mkdir(parents=True)
        for shard, stays in enumerate(read_stays(self._places(), ".psv", _number)):
            for name, subject, _ in stays:
                if subject in seen:
                    raise DataError(f"stay p{subject:06d} is there twice: {seen[subject]} and {name}; remove one")
                seen[subject] = name
            hours = _parse(stays, self.labelled)
            events, labels = _to_events(hours), _to_labels(hours, self.labelled)
            write.write_events(events, root / schema.DATA / f"{shard:04d}.parquet")
            write.write_labels(labels, root / schema.LABELS / TASK / f"{shard:04d}.parquet")
            counts["events"] += events.height
            counts["labels"] += labels.height
            if self.labelled:
                counts["positive_labels"] += int(labels[schema.BOOLEAN_VALUE].sum())
            if progress:
                progress(len(seen), len(seen))
        if not seen:
            raise DataError(f"{self.path} holds no stay files: expected files such as p000001.psv")
        counts["subjects"] = len(seen)
        _write_metadata(root)
        return counts

    def _places(self) -> list[Path]:
        """The folders or archives that hold stay files."""
        path = require_path(self.path, "the folder or archive of the .psv files")
        if not path.is_dir() or any(path.glob("*.psv")):
            return [path]
        inner = [
            item for item in sorted(path.iterdir()) if is_archive(item) or (item.is_dir() and any(item.glob("*.psv")))
        ]
        if not inner:
            raise DataError(f"{path} holds neither .psv files nor archives of them")
        return inner


def _number(name: str) -> int:
    """The number that a file is named by."""
    match = re.fullmatch(r"p?(\d{1,18})\.psv", re.split(r"[/:]", name)[-1])
    if match is None:
        raise DataError(f"{name}: a stay file is named by its number, such as p000001.psv")
    return int(match[1])


def _parse(stays: list[Stay], labelled: bool) -> pl.DataFrame:
    """All hours of the stays, one row each: `subject_id`, `COLUMNS` and, if labelled, the label.

    Bodies are joined and parsed at once; where that does not add up, the files are gone through one by one.
    """
    wanted = (*COLUMNS, LABEL) if labelled else COLUMNS
    header: list[str] | None = None
    bodies, rows = [], np.zeros(len(stays), np.int64)
    for index, (name, _, data) in enumerate(stays):
        first, _, body = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").partition(b"\n")
        columns = first.decode("utf-8", "replace").strip().split("|")
        missing = [column for column in wanted if column not in columns]
        if missing:
            raise DataError(f"{name}, row 1: no column {', '.join(missing[:3])}; found {first[:60]!r}")
        if header is None:
            header = columns
        elif columns != header:
            raise DataError(f"{name}, row 1: the columns differ from those of {stays[0][0]}; are these of one set?")
        body = body.rstrip(b"\n")
        if body:
            bodies.append(body)
            rows[index] = body.count(b"\n") + 1
    assert header is not None
    subject = np.repeat([number for _, number, _ in stays], rows)
    frame = _read(b"\n".join(bodies), header, int(rows.sum()))
    if frame is not None:
        frame = frame.select(pl.Series(_SUBJECT, subject, dtype=pl.Int64), *wanted)
        hour = pl.col(HOUR)
        sound = hour.is_not_nan() & (hour == hour.round()) & (hour > 0)
        sound &= (pl.col(_SUBJECT) != pl.col(_SUBJECT).shift(1)).fill_null(True) | (hour > hour.shift(1))
        if labelled:
            sound &= pl.col(LABEL).is_in([0.0, 1.0])
        if frame.select((~sound).any()).item():
            frame = None
    if frame is None:
        for name, _, data in stays:
            _check_rows(name, data, header, labelled)
        raise DataError(f"{stays[0][0]} and the files after it cannot be parsed, though each row looks right")
    return frame


def _read(data: bytes, header: list[str], rows: int) -> pl.DataFrame | None:
    """Parse joined rows, or None where a row does not fit."""
    columns = dict.fromkeys(header, pl.Float64)
    if not rows:
        return pl.DataFrame(schema=columns)
    if len(columns) < len(header) or data.count(b"|") != rows * (len(header) - 1) or b"\n\n" in data:
        return None
    try:
        frame = pl.read_csv(io.BytesIO(data), has_header=False, schema=columns, separator="|", quote_char=None)
    except pl.exceptions.PolarsError:
        return None
    sound = frame.height == rows and not frame.select(pl.all().is_infinite().any()).row(0).count(True)
    # An empty cell is missing too, though the Challenge writes NaN.
    return frame.with_columns(pl.all().fill_null(float("nan"))) if sound else None


def _check_rows(name: str, data: bytes, header: list[str], labelled: bool) -> None:
    """Go through a file row by row and name the first that does not fit."""
    last = 0.0
    for row, line in enumerate(data.decode("utf-8-sig", "replace").rstrip("\n").split("\n")[1:], start=2):
        cells = line.strip("\r").split("|")
        if len(cells) != len(header):
            raise DataError(f"{name}, row {row}: expected {len(header)} cells, found {len(cells)}: {line[:60]!r}")
        for column, cell in zip(header, cells, strict=True):
            try:
                number = float(cell) if cell else math.nan
            except ValueError as error:
                raise DataError(f"{name}, row {row}, column {column}: {cell!r} is not a number") from error
            if math.isinf(number):
                raise DataError(f"{name}, row {row}, column {column}: {cell!r} is not a finite number")
            if column == HOUR:
                if not number > last or number != round(number):
                    raise DataError(f"{name}, row {row}, column {HOUR}: {cell!r} is not a later hour than {last:.0f}")
                last = number
            if column == LABEL and labelled and number not in (0, 1):
                raise DataError(f"{name}, row {row}, column {LABEL}: {cell!r} is neither 0 nor 1")


def _time(hour: pl.Expr) -> pl.Expr:
    """The end of an hour of the stay."""
    return pl.lit(ADMISSION).cast(pl.Datetime("us")) + pl.duration(hours=hour.cast(pl.Int64))


def _to_events(hours: pl.DataFrame) -> pl.DataFrame:
    """MEDS events: statics from the first hour that has them, then each measured value."""
    first = hours.group_by(_SUBJECT, maintain_order=True).agg(
        pl.col(column).filter(pl.col(column).is_not_nan()).first()
        for column in (*NUMBERS, *dict.fromkeys(column for column, _ in CATEGORIES))
    )
    none = pl.lit(None, pl.Datetime("us")).alias(schema.TIME)
    parts = [
        first.filter(pl.col(column).is_not_null()).select(
            _SUBJECT,
            none,
            pl.lit(column).alias(schema.CODE),
            pl.col(column).cast(pl.Float32).alias(schema.NUMERIC_VALUE),
        )
        for column in NUMBERS
    ]
    parts += [
        first.filter(pl.col(column) == value).select(
            _SUBJECT, none, pl.lit(code).alias(schema.CODE), pl.lit(None, pl.Float32).alias(schema.NUMERIC_VALUE)
        )
        for (column, value), code in CATEGORIES.items()
    ]
    timed = hours.select(_SUBJECT, _time(pl.col(HOUR)).alias(schema.TIME), *MEASURED).unpivot(
        list(MEASURED), index=[_SUBJECT, schema.TIME], variable_name=schema.CODE, value_name=schema.NUMERIC_VALUE
    )
    timed = timed.filter(pl.col(schema.NUMERIC_VALUE).is_not_nan()).with_columns(
        pl.col(schema.NUMERIC_VALUE).cast(pl.Float32)
    )
    return pl.concat([*parts, timed]).sort(_SUBJECT, schema.TIME, nulls_last=False, maintain_order=True)


def _to_labels(hours: pl.DataFrame, labelled: bool) -> pl.DataFrame:
    """A label an hour."""
    label = [(pl.col(LABEL) == 1).alias(schema.BOOLEAN_VALUE)] if labelled else []
    return hours.select(_SUBJECT, _time(pl.col(HOUR)).alias(schema.PREDICTION_TIME), *label).sort(
        _SUBJECT, schema.PREDICTION_TIME
    )


def _write_metadata(root: Path) -> None:
    """`metadata/`: what the codes mean and what the dataset is."""
    (root / schema.METADATA).mkdir()
    rows: list[dict[str, object]] = [
        {"code": code, "description": item.description, "unit": item.unit, "low": item.low, "high": item.high}
        for code, item in {**MEASURED, **NUMBERS}.items()
    ]
    rows += [{"code": code, "description": code.replace("//", ": ")} for code in CATEGORIES.values()]
    full: list[dict[str, object]] = [{"unit": None, "low": None, "high": None, "repairs": [], **row} for row in rows]
    table = pl.DataFrame(full, schema_overrides=schema.CODE_COLUMNS, strict=False).sort("code")
    write.write_codes(table, root / schema.CODES_FILE)
    write.write_dataset_json(
        root / schema.DATASET_FILE, dataset_name="PhysioNet/CinC Challenge 2019", dataset_version="1.0.0"
    )
