"""PhysioNet 2012: real files against an independent reading, and every way a download can be broken."""

import csv
import io
import tarfile
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from meds.schema import CodeMetadataSchema, DataSchema, LabelSchema

from ehrseq.config.load import load_settings
from ehrseq.errors import DataError
from ehrseq.sources.archives import read_texts
from ehrseq.sources.physionet2012 import PhysioNet2012Source
from ehrseq.workflows import prepare

ADMISSION = datetime(2000, 1, 1)
HEADER = "Time,Parameter,Value\n"


def stay(record: int, rows: str = "01:00,HR,80\n") -> str:
    return f"{HEADER}00:00,RecordID,{record}\n00:00,Age,60\n00:00,Gender,1\n00:00,Height,-1\n00:00,Weight,70\n{rows}"


def outcomes(deaths: dict[int, int]) -> str:
    lines = ["RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"]
    return "\n".join([*lines, *(f"{record},6,1,5,-1,{death}" for record, death in deaths.items())]) + "\n"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Makes a set of forty sound stays, some of them changed."""

    def build(changed: dict[str, str | bytes] | None = None, deaths: dict[int, int] | None = None) -> Path:
        folder = tmp_path / "set-a"
        folder.mkdir()
        for record in range(1, 41):
            (folder / f"{record}.txt").write_text(stay(record))
        for name, text in (changed or {}).items():
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        labels = {record: record % 2 for record in range(1, 41)} if deaths is None else deaths
        (tmp_path / "Outcomes-a.txt").write_text(outcomes(labels))
        return folder

    return build


def prepare_here(path: Path, *words: str) -> prepare.Prepared:
    target = path.parent / "data"
    base = ("source=physionet2012", f"source.path={path}", f"paths.data={target}", "preprocess.min_subjects=1")
    try:
        return prepare.run(load_settings([*base, *words]))
    except DataError:
        assert not target.exists(), "something was written"
        raise


BROKEN_STAYS: list[tuple[str, str | bytes, str]] = [
    (
        "text",
        HEADER + "00:00,RecordID,7\n01:00,HR,fast\n",
        r"7\.txt.*row 3, column Value: 'fast' \(HR\) is not a number",
    ),
    ("nan", HEADER + "01:00,HR,nan\n", r"7\.txt.*row 2, column Value: 'nan'.*finite"),
    ("huge", HEADER + "01:00,HR,1e999\n", r"7\.txt.*row 2, column Value: '1e999'.*finite"),
    ("empty value", HEADER + "01:00,HR,\n", r"7\.txt.*row 2, column Value: ''"),
    ("time", HEADER + "01:00,HR,80\n1h,HR,80\n", r"7\.txt.*row 3, column Time: '1h'"),
    ("minutes", HEADER + "01:75,HR,80\n", r"7\.txt.*row 2, column Time: '01:75'"),
    ("few cells", HEADER + "01:00,HR\n", r"7\.txt.*row 2: expected 3 cells.*found 2"),
    ("many cells", HEADER + "01:00,HR,80,90\n", r"7\.txt.*row 2: expected 3 cells.*found 4"),
    ("compensating cells", HEADER + "01:00,HR\n01:00,HR,80,90\n", r"7\.txt.*row 2: expected 3 cells"),
    ("blank row", HEADER + "01:00,HR,80\n\n01:00,HR,80\n", r"7\.txt.*row 3: expected 3 cells"),
    ("header", "Hour,Parameter,Value\n01:00,HR,80\n", r"7\.txt, row 1: expected the header Time,Parameter,Value"),
    ("nothing", "", r"7\.txt, row 1: expected the header"),
    ("bytes", HEADER.encode() + b"01:00,HR,80\n01:00,H\xff,80\n", r"7\.txt, row 3: byte 0xff is not UTF-8"),
    ("record", HEADER + "00:00,RecordID,8\n", r"7\.txt: RecordID is 8 inside the file"),
]


@pytest.mark.parametrize(
    ("text", "message"), [case[1:] for case in BROKEN_STAYS], ids=[case[0] for case in BROKEN_STAYS]
)
def test_broken_stay_is_named(make: Callable[..., Path], text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_here(make({"7.txt": text}))


ALL = {record: record % 2 for record in range(1, 41)}
BROKEN_OUTCOMES = [
    ("missing stay", outcomes({k: v for k, v in ALL.items() if k != 9}), r"Outcomes-a\.txt: no outcome for 1 of 40.*9"),
    ("twice", outcomes(ALL) + "9,6,1,5,-1,1\n", r"Outcomes-a\.txt, row 42: stay 9 is listed twice, first in .*row 10"),
    ("not 0 or 1", outcomes({**ALL, 9: 2}), r"Outcomes-a\.txt, row 10, column In-hospital_death: 2 is neither"),
    ("no column", outcomes(ALL).replace("In-hospital_death", "Death"), r"row 1: no column In-hospital_death"),
    ("not a number", outcomes(ALL).replace("\n9,", "\nnine,"), r"row 10, column RecordID: 'nine' is not a whole"),
    ("no days", outcomes(ALL).replace("\n9,6,1,5", "\n9,6,1,-3"), r"row 10, column Length_of_stay: -3 is neither"),
    ("empty", "", r"row 1: no column RecordID"),
    ("one class", outcomes(dict.fromkeys(ALL, 0)), r"split train has only negative labels"),
    ("one class in a split", outcomes({**dict.fromkeys(ALL, 0), 3: 1}), r"split \w+ has only negative labels"),
]


@pytest.mark.parametrize(
    ("text", "message"), [case[1:] for case in BROKEN_OUTCOMES], ids=[case[0] for case in BROKEN_OUTCOMES]
)
def test_broken_outcomes_are_named(make: Callable[..., Path], text: str, message: str) -> None:
    folder = make()
    (folder.parent / "Outcomes-a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        prepare_here(folder)


def test_places_that_are_wrong(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make()
    with pytest.raises(DataError, match=r"source\.path=.*nowhere does not exist"):
        prepare_here(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"source\.path is not set"):
        PhysioNet2012Source(None).fingerprint()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither stay files"):
        prepare_here(tmp_path / "empty")
    with pytest.raises(DataError, match=r"source\.outcomes=.*other\.txt does not exist"):
        prepare_here(folder, f"source.outcomes={tmp_path / 'other.txt'}")
    (tmp_path / "Outcomes-a.txt").rename(tmp_path / "Outcomes-x.txt")
    (tmp_path / "Outcomes-y.txt").write_text(outcomes(ALL))
    with pytest.raises(DataError, match=r"several outcome files.*choose one with source\.outcomes"):
        prepare_here(folder)
    for path in tmp_path.glob("Outcomes-*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"no Outcomes\*\.txt in or beside"):
        prepare_here(folder)
    damaged = tmp_path / "set-a.tar.gz"
    with tarfile.open(damaged, "w:gz") as archive:
        archive.add(folder, "set-a")
    whole = damaged.read_bytes()
    for cut in (1, 9, 200):  # also where every stay is still there
        damaged.write_bytes(whole[:-cut])
        with pytest.raises(DataError, match=r"set-a\.tar\.gz cannot be read"):
            list(read_texts(damaged, ".txt"))
    (tmp_path / "Outcomes-a.txt").write_text(outcomes(ALL))
    with pytest.raises(DataError, match=r"set-a\.tar\.gz cannot be read"):
        prepare_here(damaged)
    no_archive = tmp_path / "set-a.rar"
    no_archive.write_bytes(b"?")
    with pytest.raises(DataError, match="neither a folder nor one of"):
        prepare_here(no_archive)


def test_a_stay_in_two_sets_is_refused(make: Callable[..., Path], tmp_path: Path) -> None:
    make()
    (tmp_path / "set-b").mkdir()
    (tmp_path / "set-b" / "7.txt").write_text(stay(7))
    (tmp_path / "Outcomes-b.txt").write_text(outcomes({99: 1}))
    with pytest.raises(DataError, match=r"stay 7 is there twice: .*set-a/7\.txt and .*set-b/7\.txt"):
        prepare_here(tmp_path)


def test_folder_archives_and_parent_give_the_same_bytes(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make()
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, f"../set-a/{file.name}")  # a name that points outside: read, never unpacked
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for file in sorted(folder.iterdir()):
            zipped.write(file, f"set-a/{file.name}")
    written = []
    for number, place in enumerate((folder, tmp_path / "a.tar.gz", tmp_path / "a.zip")):
        root = tmp_path / f"out{number}"
        root.mkdir()
        PhysioNet2012Source(str(place), str(tmp_path / "Outcomes-a.txt")).write(root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        written.append({path.relative_to(root).as_posix(): path.read_bytes() for path in files})
    assert written[0] == written[1] == written[2]
    assert list(tmp_path.glob("*.txt")) == [tmp_path / "Outcomes-a.txt"]


def test_repairs_are_accepted_and_counted(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(
        {
            "1.txt": b"\xef\xbb\xbf" + stay(1).replace("\n", "\r\n").encode(),
            "2.txt": stay(2, "01:00,,-1\n01:00,HR,90\n"),
            "3.txt": HEADER,
        }
    )
    root = tmp_path / "out"
    root.mkdir()
    counts = PhysioNet2012Source(str(folder)).write(root)
    assert counts["byte_order_marks"] == 1
    assert counts["rows_without_parameter"] == 1
    assert counts["descriptors_unknown"] == 39  # every Height but that of the stay without rows
    assert counts["subjects"] == 40
    labels = pl.read_parquet(root / "labels" / "in_hospital_mortality" / "0000.parquet")
    assert labels["subject_id"].to_list() == list(range(1, 41))
    assert 3 not in pl.read_parquet(root / "data" / "0000.parquet")["subject_id"]


def test_days_that_are_not_known_give_no_label(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make()
    file = tmp_path / "Outcomes-a.txt"
    file.write_text(outcomes(ALL).replace("\n9,6,1,5,-1,", "\n9,6,1,-1,30,").replace("\n4,6,1,5,", "\n4,17,-1,12,"))
    for name, source in (("labelled", PhysioNet2012Source(str(folder))), ("new", PhysioNet2012Source(str(folder)))):
        root = tmp_path / name
        root.mkdir()
        (source if name == "labelled" else source.without_labels()).write(root)
    found = {task: pl.read_parquet(tmp_path / "labelled" / "labels" / task) for task in ("length_of_stay", "survival")}
    stays = dict(found["length_of_stay"].select("subject_id", "float_value").iter_rows())
    assert stays == {record: 12.0 if record == 4 else 5.0 for record in ALL if record != 9}
    assert found["survival"].rows() == [(9, ADMISSION + timedelta(hours=48), 30.0)]
    scores = {task: pl.read_parquet(tmp_path / "labelled" / "labels" / task) for task in ("saps_i", "sofa")}
    points = {task: dict(table.select("subject_id", "float_value").iter_rows()) for task, table in scores.items()}
    assert points["saps_i"] == {record: 17.0 if record == 4 else 6.0 for record in ALL}
    assert points["sofa"] == {record: 1.0 for record in ALL if record != 4}
    for task in ("in_hospital_mortality", "length_of_stay", "survival", "saps_i", "sofa"):
        table = pl.read_parquet(tmp_path / "new" / "labels" / task)
        assert table.columns == ["subject_id", "prediction_time"]
        assert table["subject_id"].to_list() == list(ALL)


def slow_reading(text: str, record: int) -> list[tuple[int, datetime | None, str, float | None]]:
    """The adapter's contract, row by row."""
    events: list[tuple[int, datetime | None, str, float | None]] = []
    icu = {1: "coronary_care", 2: "cardiac_surgery_recovery", 3: "medical", 4: "surgical"}
    for row in csv.DictReader(io.StringIO(text)):
        hours, minutes = row["Time"].split(":")
        time = ADMISSION + timedelta(hours=int(hours), minutes=int(minutes))
        name, value = row["Parameter"], float(row["Value"])
        descriptor = row["Time"] == "00:00" and name in {"Age", "Gender", "Height", "ICUType", "Weight"}
        if name == "RecordID" or (descriptor and value == -1):
            continue
        if descriptor and name == "Gender":
            events.append((record, None, "Gender//male" if value else "Gender//female", None))
        elif descriptor and name == "ICUType":
            events.append((record, None, f"ICUType//{icu[int(value)]}", None))
        else:
            events.append((record, None if descriptor and name != "Weight" else time, name, value))
    return sorted(events, key=lambda event: (event[1] is not None, event[1] or ADMISSION))


def test_real_stays_against_an_independent_reading(test_data: Path, tmp_path: Path) -> None:
    archive = test_data / "physionet2012" / "set-a.tar.gz"
    counts = PhysioNet2012Source(str(archive)).write(tmp_path)
    assert (counts["subjects"], counts["positive_labels"]) == (4000, 554)
    events = pl.read_parquet(tmp_path / "data" / "0000.parquet")
    assert events.height + counts["descriptors_unknown"] + 4000 == 1_757_980
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()][::310]
        for member in members:
            record = int(Path(member.name).stem)
            file = tar.extractfile(member)
            assert file is not None
            expected = slow_reading(file.read().decode(), record)
            rows = events.filter(pl.col("subject_id") == record).rows()
            assert [row[:3] for row in rows] == [event[:3] for event in expected]
            for row, event in zip(rows, expected, strict=True):
                assert row[3] == (None if event[3] is None else pytest.approx(event[3], rel=1e-6))
    DataSchema.validate(pq.read_table(tmp_path / "data" / "0000.parquet"))
    LabelSchema.validate(pq.read_table(tmp_path / "labels" / "in_hospital_mortality" / "0000.parquet"))
    with (test_data / "physionet2012" / "Outcomes-a.txt").open() as lines:
        rows_of = {int(row["RecordID"]): row for row in csv.DictReader(lines)}
    for task, column in (("length_of_stay", "Length_of_stay"), ("survival", "Survival")):
        LabelSchema.validate(pq.read_table(tmp_path / "labels" / task / "0000.parquet"))
        labels = pl.read_parquet(tmp_path / "labels" / task).select("subject_id", "float_value")
        days = {record: float(row[column]) for record, row in rows_of.items() if row[column] != "-1"}
        assert dict(labels.iter_rows()) == days
    CodeMetadataSchema.validate(pq.read_table(tmp_path / "metadata" / "codes.parquet"))
    # Outcomes are never inputs.
    assert not {"SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death"} & set(events["code"])
