"""PhysioNet/CinC Challenge 2012: 48 hours of intensive care, in-hospital death.

Silva et al. 2012, "Predicting in-hospital mortality of ICU patients", doi 10.13026/1jqp-gp84. A stay is one text file
`RecordID.txt` with the rows `Time,Parameter,Value`; outcomes come in a file of their own.

The files carry hours since admission and no dates: every stay is laid at `ADMISSION`, and predicted 48 hours later.
Labels: `in_hospital_mortality`; `length_of_stay` and `survival`, in days from admission, and the scores `saps_i` and
`sofa`, of the stays whose are known. None of them is ever an input.
"""

import io
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.errors import DataError
from ehrseq.files import digest_file
from ehrseq.meds import schema, write
from ehrseq.sources.archives import Stay, digest_places, is_archive, read_stays
from ehrseq.sources.base import Progress, Source, require_path
from ehrseq.sources.physionet2012_codes import DESCRIPTORS, GENDERS, ICU_TYPES, VARIABLES
from ehrseq.sources.physionet2012_outcomes import find_outcomes, read_outcomes
from ehrseq.sources.physionet2012_rows import check_rows

ADMISSION = datetime(2000, 1, 1)
PREDICTION_TIME = ADMISSION + timedelta(hours=48)
DEATH, STAY, SURVIVAL = "in_hospital_mortality", "length_of_stay", "survival"
SAPS_I, SOFA = "saps_i", "sofa"
VERSION = 3  # raised when the same files would give other events or labels

_HEADER = b"Time,Parameter,Value"
_OTHER = {"Gender": "Gender//other", "ICUType": "ICUType//other"}
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class PhysioNet2012Source(Source):
    """The stay files of one or several sets.

    Attributes:
        path: A folder of stay files, a `.tar.gz` or `.zip` of them as downloaded, or a folder that holds such
        archives or
            `set-a`-like folders.
        outcomes: The outcomes file; None looks beside and inside `path`.
        labelled: False: outcomes are neither looked for nor read.
    """

    path: str | None
    outcomes: str | None = None
    labelled: bool = field(default=True, kw_only=True)

    name = "physionet2012"

    def without_labels(self) -> Source:
        """The same stays, for prediction."""
        return replace(self, labelled=False)

    def fingerprint(self) -> dict[str, Any]:
        """Digests of the stay files and of the outcomes."""
        places = self._places()
        stays = digest_places(places, ".txt")
        outcomes = [digest_file(path)[:16] for path in self._outcomes(places)]
        return {"adapter": self.name, "version": VERSION, "stays": stays, "outcomes": outcomes}

    def write(self, root: Path, progress: Progress | None = None) -> dict[str, int]:
        """Write the MEDS dataset; see `Source.write`."""
        places = self._places()
        counts = dict.fromkeys(
            ("subjects", "events", "descriptors_unknown", "rows_without_parameter", "byte_order_marks"), 0
        )
        seen: dict[int, str] = {}
        codes: set[str] = set()
        (root / schema.DATA).mkdir()
        for shard, stays in enumerate(read_stays(places, ".txt", _record_id)):
            for name, record, _ in stays:
                if record in seen:
                    raise DataError(f"stay {record} is there twice: {seen[record]} and {name}; remove one of them")
                seen[record] = name
            events = _to_events(_parse(stays, counts), counts)
            write.write_events(events, root / schema.DATA / f"{shard:04d}.parquet")
            codes.update(events["code"].unique())
            counts["events"] += events.height
            if progress:
                progress(len(seen), len(seen))
        if not seen:
            raise DataError(
                f"{self.path} holds no stay files: expected text files named by RecordID, such as 132539.txt"
            )
        counts["subjects"] = len(seen)
        for task, labels in self._labels(places, seen, counts).items():
            (root / schema.LABELS / task).mkdir(parents=True)
            write.write_labels(labels, root / schema.LABELS / task / "0000.parquet")
        _write_metadata(root, codes)
        return counts

    def _places(self) -> list[Path]:
        """The folders or archives that hold stay files."""
        path = require_path(self.path, "the folder or archive of the stay files")
        if not path.is_dir():
            return [path]
        if any(_record_id(file.name) is not None for file in path.iterdir()):
            return [path]
        inner = [item for item in sorted(path.iterdir()) if re.fullmatch(r"set-[a-z]", item.name) and item.is_dir()]
        sets = {item.name for item in inner}
        inner += [
            item for item in sorted(path.glob("set-*")) if is_archive(item) and item.name.split(".")[0] not in sets
        ]
        if not inner:
            raise DataError(f"{path} holds neither stay files such as 132539.txt nor set-a.tar.gz or set-a.zip")
        return inner

    def _outcomes(self, places: list[Path]) -> list[Path]:
        if not self.labelled:
            return []
        return find_outcomes(places, Path(self.outcomes).expanduser() if self.outcomes else None)

    def _labels(self, places: list[Path], seen: dict[int, str], counts: dict[str, int]) -> dict[str, pl.DataFrame]:
        """The tables of labels; where no outcomes are read, of every stay without a value."""
        labels = pl.DataFrame(
            {schema.SUBJECT_ID: sorted(seen), schema.PREDICTION_TIME: [PREDICTION_TIME] * len(seen)},
            schema={schema.SUBJECT_ID: pl.Int64, schema.PREDICTION_TIME: pl.Datetime("us")},
        )
        paths = self._outcomes(places)
        if not paths:
            return dict.fromkeys((DEATH, STAY, SURVIVAL, SAPS_I, SOFA), labels)
        outcomes = read_outcomes(paths)
        missing = [record for record in sorted(seen) if record not in outcomes]
        if missing:
            raise DataError(
                f"{', '.join(map(str, paths))}: no outcome for {len(missing)} of {len(seen)} stays, the first is "
                f"{missing[0]} ({seen[missing[0]]}); add the row, or take the stay out"
            )
        counts["outcomes_without_stay"] = len(outcomes) - len(seen)
        counts["positive_labels"] = sum(outcomes[record].death for record in seen)
        own = [outcomes[record] for record in sorted(seen)]
        values = {
            DEATH: pl.Series(schema.BOOLEAN_VALUE, [outcome.death for outcome in own], pl.Boolean),
            STAY: pl.Series(schema.FLOAT_VALUE, [outcome.stay_days for outcome in own], pl.Float32),
            SURVIVAL: pl.Series(schema.FLOAT_VALUE, [outcome.survival_days for outcome in own], pl.Float32),
            SAPS_I: pl.Series(schema.FLOAT_VALUE, [outcome.saps_i for outcome in own], pl.Float32),
            SOFA: pl.Series(schema.FLOAT_VALUE, [outcome.sofa for outcome in own], pl.Float32),
        }
        return {task: labels.with_columns(value).drop_nulls() for task, value in values.items()}


def _record_id(name: str) -> int | None:
    """The RecordID that a file is named by, or None for other files."""
    match = re.fullmatch(r"(\d{1,18})\.txt", re.split(r"[/:]", name)[-1])
    return int(match[1]) if match else None


def _parse(stays: list[Stay], counts: dict[str, int]) -> pl.DataFrame:
    """All rows of the stays as (record, Time, Parameter, Value), checked.

    The bodies are joined and parsed at once, which is many times faster than file by file; where that does not add up,
    the files are gone through one by one for the row to blame.
    """
    bodies, rows = [], np.zeros(len(stays), np.int64)
    for index, (name, _, data) in enumerate(stays):
        content = data
        if content.startswith(_BOM):
            content = content[len(_BOM) :]
            counts["byte_order_marks"] += 1
        if b"\r" in content:
            content = content.replace(b"\r\n", b"\n")
        header, _, body = content.partition(b"\n")
        if header.strip() != _HEADER:
            raise DataError(f"{name}, row 1: expected the header {_HEADER.decode()}, found {header[:60]!r}")
        body = body.rstrip(b"\n")
        if body:
            bodies.append(body)
            rows[index] = body.count(b"\n") + 1
    frame = _read_csv(b"\n".join(bodies), int(rows.sum()))
    if frame is None:
        for name, record, data in stays:
            check_rows(name, record, data)
        raise DataError(
            f"{stays[0][0]} and the files after it cannot be parsed, though each row looks right; please report this"
        )
    frame = frame.with_columns(pl.Series("record", np.repeat([record for _, record, _ in stays], rows), dtype=pl.Int64))
    wrong = frame.filter((pl.col("Parameter") == "RecordID") & (pl.col("Value").cast(pl.Int64) != pl.col("record")))
    if wrong.height:
        name = next(name for name, record, _ in stays if record == wrong["record"][0])
        raise DataError(f"{name}: RecordID is {wrong['Value'][0]:.0f} inside the file; name the file by its RecordID")
    return frame


def _read_csv(data: bytes, rows: int) -> pl.DataFrame | None:
    """Parse joined rows into (minute, Parameter, Value), or None where a row does not fit."""
    # Few different times and parameters stand in many rows: each is looked at once.
    columns = {"Time": pl.Categorical, "Parameter": pl.Categorical, "Value": pl.Float64}
    if not rows:
        return pl.DataFrame(schema={"minute": pl.Int64, "Parameter": pl.Categorical, "Value": pl.Float64})
    if not data.isascii() or data.count(b",") != 2 * rows or b"\n\n" in data:
        return None
    try:
        frame = pl.read_csv(io.BytesIO(data), has_header=False, schema=columns, quote_char=None, infer_schema=False)
    except pl.exceptions.PolarsError:
        return None
    if frame["Time"].null_count():
        return None
    times, number = _distinct(frame["Time"])
    minutes = [int(time[:-3]) * 60 + int(time[-2:]) if re.fullmatch(r"\d{1,4}:[0-5]\d", time) else -1 for time in times]
    frame = frame.select(
        pl.Series("minute", np.array(minutes, np.int64).take(number)),
        pl.col("Parameter").fill_null(""),
        "Value",
    )
    sound = (
        frame.height == rows
        and bool((frame["minute"] >= 0).all())
        and frame["Value"].is_finite().all(ignore_nulls=False)
    )
    return frame if sound else None


def _distinct(column: pl.Series) -> tuple[list[str], NDArray[np.int32]]:
    """The different words of a categorical column, and which of them each row holds."""
    words = column.unique()
    physical = words.to_physical().to_numpy()
    position = np.zeros(int(physical.max(initial=0)) + 1, np.int32)
    position[physical] = np.arange(len(physical))
    return words.cast(pl.String).to_list(), position.take(column.to_physical().to_numpy())


def _to_events(rows: pl.DataFrame, counts: dict[str, int]) -> pl.DataFrame:
    """Rows as MEDS events, sorted by subject, then time (statics first), then as they stood in the file."""
    names, number = _distinct(rows["Parameter"])
    minute, value, record = (rows[name].to_numpy() for name in ("minute", "Value", "record"))

    def among(*wanted: str) -> NDArray[np.bool_]:
        return np.array([name in wanted for name in names], bool).take(number)

    unnamed = among("")
    counts["rows_without_parameter"] += int(unnamed.sum())
    at_admission = minute == 0
    static = at_admission & among(*DESCRIPTORS)
    unknown = (static | (at_admission & among("Weight"))) & (value == -1)
    counts["descriptors_unknown"] += int(unknown.sum())
    kept = np.flatnonzero(~(unnamed | unknown | among("RecordID")))
    # Statics first; numpy is fast here because the rows are nearly in order already.
    kept = kept.take(np.lexsort((np.where(static, -1, minute).take(kept), record.take(kept))))
    named = {"Gender": GENDERS, "ICUType": ICU_TYPES}
    codes = [*names, *(code for table in named.values() for code in (*table.values(), *_OTHER.values()))]
    position = {code: index for index, code in enumerate(codes)}
    numeric, number_of_row = value.astype(np.float32), number.astype(np.int32)
    for name, table in named.items():
        for row in np.flatnonzero(among(name)):
            number_of_row[row] = position[table.get(int(value[row]), _OTHER[name])]
            numeric[row] = np.nan
    time = np.datetime64(ADMISSION, "us") + minute.take(kept).astype("timedelta64[m]")
    time[static.take(kept)] = np.datetime64("NaT")
    return pl.DataFrame(
        {
            schema.SUBJECT_ID: record.take(kept),
            schema.TIME: time,
            schema.CODE: pl.Series(codes, dtype=pl.String).gather(number_of_row.take(kept)),
            schema.NUMERIC_VALUE: pl.Series(numeric.take(kept)).fill_nan(None),
        },
        schema_overrides={schema.TIME: pl.Datetime("us")},
    )


def _write_metadata(root: Path, codes: set[str]) -> None:
    """`metadata/`: what the codes mean, their limits and repairs, and what the dataset is."""
    (root / schema.METADATA).mkdir()
    rows = []
    for code in sorted(codes | VARIABLES.keys() - set(DESCRIPTORS[1:])):
        variable = VARIABLES.get(code)
        rows.append(
            {
                "code": code,
                "description": variable.description if variable else code.replace("//", ": ").replace("_", " "),
                "unit": variable.unit if variable else None,
                "low": variable.low if variable else None,
                "high": variable.high if variable else None,
                "repairs": [repair._asdict() for repair in variable.repairs] if variable else [],
            }
        )
    write.write_codes(pl.DataFrame(rows, schema_overrides=schema.CODE_COLUMNS, strict=False), root / schema.CODES_FILE)
    write.write_dataset_json(
        root / schema.DATASET_FILE, dataset_name="PhysioNet/CinC Challenge 2012", dataset_version="1.0.0"
    )
