"""The 2019 adapter on the real files and on spoilt ones."""

import io
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ehrseq.errors import DataError
from ehrseq.sources.physionet2019 import ADMISSION, PhysioNet2019Source
from ehrseq.sources.physionet2019_codes import COLUMNS, MEASURED

HEADER = "|".join([*COLUMNS, "SepsisLabel"])


def row(hour: int, label: int | str = 0, **cells: object) -> str:
    values: dict[str, object] = {
        "Age": 70,
        "Gender": 1,
        "Unit1": 0,
        "Unit2": 1,
        "HospAdmTime": -3.5,
        "ICULOS": hour,
        **cells,
    }
    return "|".join(str(values.get(column, "NaN")) for column in COLUMNS) + f"|{label}"


def stays(folder: Path, *texts: str) -> PhysioNet2019Source:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts, start=1):
        (folder / f"p{number:06d}.psv").write_text(text)
    return PhysioNet2019Source(str(folder))


def test_events_and_labels(tmp_path: Path) -> None:
    text = "\n".join([HEADER, row(1, HR=80), row(2), row(4, 1, HR="", Temp=37.5)])
    out = tmp_path / "out"
    out.mkdir()
    assert stays(tmp_path / "in", text).write(out)["labels"] == 3
    events = pl.read_parquet(out / "data" / "*.parquet")
    assert events.select("time", "code", "numeric_value").rows() == [
        (None, "Age", 70.0),
        (None, "HospAdmTime", -3.5),
        (None, "Gender//male", None),
        (None, "Unit//surgical", None),
        (ADMISSION + timedelta(hours=1), "HR", 80.0),
        (ADMISSION + timedelta(hours=4), "Temp", 37.5),
    ]
    labels = pl.read_parquet(out / "labels" / "sepsis" / "*.parquet")
    hours = [ADMISSION + timedelta(hours=hour) for hour in (1, 2, 4)]
    assert labels.rows() == list(zip([1] * 3, hours, [False, False, True], strict=True))


def test_real_files_agree_with_numpy(test_data: Path, tmp_path: Path) -> None:
    archive = test_data / "physionet2019" / "training_setB-first5000.tar.gz"
    small = tmp_path / "in"
    small.mkdir()
    tables: dict[int, np.ndarray[Any, Any]] = {}
    with tarfile.open(archive) as file:
        for member in file:
            if member.isfile() and len(tables) < 60:
                data = file.extractfile(member)
                assert data is not None
                content = data.read()
                name = Path(member.name).name
                (small / name).write_bytes(content)
                tables[int(name[1:-4])] = np.genfromtxt(io.BytesIO(content), delimiter="|", names=True)
    out = tmp_path / "out"
    out.mkdir()
    PhysioNet2019Source(str(small)).write(out)
    events = pl.read_parquet(out / "data" / "*.parquet").filter(pl.col("time").is_not_null())
    labels = pl.read_parquet(out / "labels" / "sepsis" / "*.parquet")
    assert events.height == sum(int((~np.isnan(table[name])).sum()) for table in tables.values() for name in MEASURED)
    for subject, table in tables.items():
        mine = labels.filter(pl.col("subject_id") == subject)
        assert mine["boolean_value"].to_list() == (table["SepsisLabel"] == 1).tolist()
        rate = events.filter(pl.col("subject_id") == subject, pl.col("code") == "HR")["numeric_value"].to_numpy()
        np.testing.assert_allclose(rate, table["HR"][~np.isnan(table["HR"])], rtol=1e-6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, row(1), row(1)], r"p000001\.psv, row 3, column ICULOS: '1' is not a later hour than 1"),
        ([HEADER, row(1, HR="fast")], r"row 2, column HR: 'fast' is not a number"),
        ([HEADER, row(1, HR="inf")], r"row 2, column HR: 'inf' is not a finite number"),
        ([HEADER, row(1, 2)], r"row 2, column SepsisLabel: '2' is neither 0 nor 1"),
        ([HEADER, row(1), row(2) + "|0"], r"row 3: expected 41 cells, found 42"),
        ([HEADER.replace("HR|", "Pulse|"), row(1)], r"row 1: no column HR"),
    ],
)
def test_faults_are_named(lines: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=message):
        stays(tmp_path / "in", "\n".join(lines) + "\n").write(out)


def test_prediction_needs_no_labels(tmp_path: Path) -> None:
    text = "\n".join(line.rpartition("|")[0] for line in [HEADER, row(1, HR=80), row(2)])
    source = stays(tmp_path / "in", text).without_labels()
    out = tmp_path / "out"
    out.mkdir()
    source.write(out)
    assert pl.read_parquet(out / "labels" / "sepsis" / "*.parquet").columns == ["subject_id", "prediction_time"]
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"no column SepsisLabel"):
        stays(tmp_path / "in", text).write(tmp_path / "b")
