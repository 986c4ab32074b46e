"""Tables and OMOP exports written by hand, read back as MEDS; and tables that break their contract."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehrseq.errors import DataError
from ehrseq.sources.omop import OmopSource
from ehrseq.sources.tables import TablesSource

LABS = """patient,taken,item,unit,result
1,2020-01-01 10:00:00,K,mmol/L,4.5
1,2020-01-01 09:30,K,,4.1
2,2020-01-02T08:00:00.25,culture,,positive
10,2020-03-29 03:30:00,K,mmol/L,"5.0"
"""
VITALS = "patient\twhen\theart\tpressure\n1\t2020-01-01 11:00\t80\t\n2\t2020-07-01 11:00\t\t120\n"
PATIENTS = "patient,sex,born\n1,F,1950-02-01\n2,M,1960-12-31\n10,F,\n"
ITEMS = "item,name\nK,Potassium\n"
DESCRIPTION = """
name: made
lookups:
  items: {file: items.csv, key: item, value: "{name}"}
tables:
  labs:
    file: labs*.csv
    subject: patient
    time_zone: Europe/Berlin
    events: [{code: "LAB//{item:items}//{unit|none}", time: taken, value: result, text: result}]
  vitals:
    file: vitals.tsv
    subject: patient
    events: [{time: when, wide: {heart: HR, pressure: BP}}]
  patients:
    file: patients.csv
    subject: patient
    events:
      - {code: "SEX//{sex}"}
      - {code: MEDS_BIRTH, time: born, date_only: start, skip_without: [born]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in"
    inside.mkdir()
    for name, text in (("labs.csv", LABS), ("vitals.tsv", VITALS), ("patients.csv", PATIENTS), ("items.csv", ITEMS)):
        (inside / name).write_text(text)
    (inside / "description.yaml").write_text(DESCRIPTION)
    return inside


def read(source: TablesSource | OmopSource, tmp_path: Path) -> list[tuple[object, ...]]:
    """All events as (subject, time as text, code, value)."""
    out = tmp_path / "out"
    out.mkdir()
    source.write(out)
    frame = pl.read_parquet(out / "data" / "*.parquet")
    assert frame.select("subject_id", "time").equals(frame.select("subject_id", "time").sort("subject_id", "time"))
    columns = [pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S%.3f")]
    return frame.select("subject_id", *columns, "code", "numeric_value").rows()


def tables(folder: Path) -> TablesSource:
    return TablesSource(str(folder), str(folder / "description.yaml"))


def test_long_and_wide_tables(folder: Path, tmp_path: Path) -> None:
    assert read(tables(folder), tmp_path) == [
        (1, None, "SEX//F", None),
        (1, "1950-02-01 00:00:00.000", "MEDS_BIRTH", None),
        (1, "2020-01-01 08:30:00.000", "LAB//Potassium//none", pytest.approx(4.1)),  # Berlin is an hour ahead
        (1, "2020-01-01 09:00:00.000", "LAB//Potassium//mmol/L", 4.5),
        (1, "2020-01-01 11:00:00.000", "HR", 80.0),
        (2, None, "SEX//M", None),
        (2, "1960-12-31 00:00:00.000", "MEDS_BIRTH", None),
        (2, "2020-01-02 07:00:00.250", "LAB//culture//none", None),
        (2, "2020-07-01 11:00:00.000", "BP", 120.0),
        (10, None, "SEX//F", None),
        (10, "2020-03-29 01:30:00.000", "LAB//Potassium//mmol/L", 5.0),  # summer time began an hour before
    ]
    texts = pl.read_parquet(tmp_path / "out" / "data" / "*.parquet")["text_value"].drop_nulls().to_list()
    assert texts == ["positive"]


def test_parquet_gzip_and_byte_order_mark_give_the_same(folder: Path, tmp_path: Path) -> None:
    plain = read(tables(folder), tmp_path)
    (folder / "labs.csv").unlink()
    with gzip.open(folder / "labs1.csv.gz", "wb") as file:
        file.write(b"\xef\xbb\xbf" + LABS.replace("\n", "\r\n").encode())
    rows = [line.split("\t") for line in VITALS.splitlines()[1:]]
    vitals = {
        "patient": pa.array([int(row[0]) for row in rows]),
        "when": pa.array([pl.Series([row[1]]).str.to_datetime("%Y-%m-%d %H:%M")[0] for row in rows]),
        "heart": pa.array([float(row[2]) if row[2] else None for row in rows]),
        "pressure": pa.array([float(row[3]) if row[3] else None for row in rows]),
    }
    pq.write_table(pa.table(vitals), folder / "vitals.parquet")
    text = DESCRIPTION.replace("vitals.tsv", "vitals.parquet").replace("labs*.csv", "labs*.csv.gz")
    (folder / "description.yaml").write_text(text)
    other = tmp_path / "other"
    other.mkdir()
    assert read(tables(folder), other) == plain


def test_ids_that_are_no_plain_numbers_stay_apart(folder: Path, tmp_path: Path) -> None:
    (folder / "labs.csv").write_text(LABS.replace("\n10,", "\n0001,"))
    events = read(tables(folder), tmp_path)
    ids = pl.read_parquet(tmp_path / "out" / "metadata" / "subject_ids.parquet")
    assert set(ids["original"]) == {"0001", "1", "2", "10"}
    assert {row[0] for row in events} == set(ids["subject_id"])
    assert ids["subject_id"].n_unique() == 4


def test_spilled_shards_hold_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read(tables(folder), tmp_path)
    monkeypatch.setattr("ehrseq.meds.build.SHARD_ROWS", 1)
    other = tmp_path / "other"
    other.mkdir()
    source = tables(folder)
    (other / "out").mkdir()
    source.write(other / "out")
    shards = sorted((other / "out" / "data").iterdir())
    assert len(shards) > 1
    frames = [pl.read_parquet(path) for path in shards]
    seen = [set(frame["subject_id"]) for frame in frames]
    assert sum(map(len, seen)) == len(set().union(*seen))
    frame = pl.concat(frames, how="diagonal").sort("subject_id", maintain_order=True)
    assert [(row[0], row[2]) for row in plain] == frame.select("subject_id", "code").rows()


def test_rows_that_do_not_fit_are_left_out_only_when_asked(folder: Path, tmp_path: Path) -> None:
    lines = LABS + "".join(f"3,2020-01-01 {i % 24:02d}:00:00,K,mmol/L,4\n" for i in range(300))
    (folder / "labs.csv").write_text(lines + "3,yesterday,K,mmol/L,4\n")
    with pytest.raises(DataError, match=r"labs\.csv, row 306, column taken: 'yesterday' is not a time"):
        read(tables(folder), tmp_path)
    (folder / "description.yaml").write_text(DESCRIPTION + "bad_rows: drop\n")
    (tmp_path / "a").mkdir()
    counts = tables(folder).write(tmp_path / "a" if not (tmp_path / "a" / "data").exists() else tmp_path)
    assert counts["rows_left_out"] == 1
    (folder / "description.yaml").write_text(DESCRIPTION + "bad_rows: drop\nbad_share: 0.001\n")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"1 of 305 rows do not fit, more than bad_share=0\.001"):
        tables(folder).write(tmp_path / "b")


def labs(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "labs.csv").write_text(text)


def described(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "description.yaml").write_text(DESCRIPTION.replace(old, new))


def cut_gzip(folder: Path) -> None:
    (folder / "labs.csv").unlink()
    (folder / "labs.csv.gz").write_bytes(gzip.compress(LABS.encode() * 999)[:-300])
    described("labs*.csv", "labs*.csv.gz")(folder)


def link_outside(folder: Path) -> None:
    (folder / "labs.csv").unlink()
    (folder.parent / "far.csv").write_text(LABS)
    (folder / "labs.csv").symlink_to(folder.parent / "far.csv")


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (labs(LABS.replace("4.5", "4.5,7")), r"labs\.csv, row 2: expected 5 cells, found 6"),
    (labs(LABS.replace("K,,4.1", "K,4.1")), r"labs\.csv, row 3: expected 5 cells, found 4"),
    (labs(LABS.replace("unit,", "item,")), r"labs\.csv, row 1: column item is there twice"),
    (labs(LABS.replace("taken", "time")), r"labs\.csv, row 1: no column taken"),
    (labs(LABS.replace("1,2020-01-01 10", ",2020-01-01 10")), r"labs\.csv, row 2, column patient: None is empty"),
    (labs(LABS.replace("2020-01-01 10:00:00", "")), r"labs\.csv, row 2, column taken: None is empty"),
    (labs(LABS.replace("2020-01-01 10:00:00", "01/02/2020")), r"row 2, column taken: '01/02/2020' is not a time"),
    (labs(LABS.replace("2020-03-29 03:30", "2020-03-29 02:30")), r"row 5, column taken: .* does not exist in Europe"),
    (labs(LABS.replace("4.5", "1e999")), r"row 2, column result: '1e999' is not a finite number"),
    (labs(""), r"labs\.csv is empty"),
    (
        lambda folder: (folder / "labs.csv").write_bytes(LABS.encode().replace(b"positive", b"po\xff")),
        r"labs\.csv, row 4: byte 0xff is not UTF-8",
    ),
    (
        cut_gzip,
        r"labs\.csv\.gz cannot be read",
    ),
    (described("text: result", "txt: result"), r"tables\.labs\.events\.0\.txt: unknown key; did you mean 'text'"),
    (described("labs*.csv", "laboratory.csv"), r"holds no laboratory\.csv \(table labs"),
    (described("Europe/Berlin", "Europe/Atlantis"), r"time_zone 'Europe/Atlantis' is not known"),
    (described("item:items", "item:itms"), r"table labs uses the lookup 'itms'"),
    (described("value: result, text: result", "value: unit"), r"row 2, column unit: 'mmol/L' is not a number"),
    (described("tables:", "tables: ["), r"description\.yaml is not YAML"),
    (lambda folder: (folder / "description.yaml").unlink(), r"description\.yaml does not exist"),
    (described("labs*.csv", "../in/labs.csv"), r"."),
    (
        link_outside,
        r"labs\.csv \(table labs\) points outside",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[str(index) for index in range(len(FAULTS))])
def test_fault_is_named(spoil: Callable[[Path], object], message: str, folder: Path, tmp_path: Path) -> None:
    spoil(folder)
    if message == ".":  # a harmless way round to the same file
        assert read(tables(folder), tmp_path)
        return
    with pytest.raises(DataError, match=message):
        read(tables(folder), tmp_path)


def test_offsets_may_not_be_mixed_with_none(folder: Path, tmp_path: Path) -> None:
    text = LABS.replace("10:00:00", "10:00:00+02:00").replace("2020-01-02T08:00:00.25", "2020-01-02T08:00:00Z")
    (folder / "labs.csv").write_text(text)
    (folder / "description.yaml").write_text(re.sub(r" +time_zone: .*\n", "", DESCRIPTION))
    with pytest.raises(DataError, match=r"row 3, column taken: '2020-01-01 09:30' has no offset"):
        read(tables(folder), tmp_path)
    (folder / "description.yaml").write_text(DESCRIPTION)
    (tmp_path / "b").mkdir()
    times = [row[1] for row in read(tables(folder), tmp_path / "b") if str(row[2]).startswith("LAB")]
    assert times[:3] == ["2020-01-01 08:00:00.000", "2020-01-01 08:30:00.000", "2020-01-02 08:00:00.000"]


OMOP = {
    "PERSON.csv": """PERSON_ID,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_concept_id
1,8532,1950,2,,,0
2,8507,1960,12,31,1960-12-31 04:00:00,0
""",  # noqa: E501
    "visit_occurrence.csv": """person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date
1,9201,2020-01-01,2020-01-01 10:00:00,2020-01-05
2,9202,2020-02-01,,
""",
    "condition_occurrence.csv": """person_id,condition_concept_id,condition_start_date,condition_start_datetime,condition_source_value
1,316139,2020-01-02,,I50.9
1,0,2020-01-02,2020-01-02 08:00:00,X99
""",  # noqa: E501
    "measurement.csv": """person_id,measurement_concept_id,measurement_date,measurement_datetime,value_as_number,unit_concept_id,value_source_value
1,3023103,2020-01-01,2020-01-01 11:00:00,4.5,8753,4.5
1,3023103,2020-01-01,2020-01-01 12:00:00,,8753,haemolysed
""",  # noqa: E501
    "death.csv": "person_id,death_date,death_datetime\n1,2020-01-05,\n",
    "CONCEPT.csv": """concept_id	concept_name	vocabulary_id	concept_code
316139	Heart failure	SNOMED	84114007
3023103	Potassium	LOINC	2823-3
8753	mmol	UCUM	mmol/L
8532	FEMALE	Gender	F
9201	Inpatient	Visit	IP
""",
}


def omop(tmp_path: Path, **changes: str) -> OmopSource:
    folder = tmp_path / "omop"
    folder.mkdir(exist_ok=True)
    for name, text in {**OMOP, **changes}.items():
        (folder / name).write_text(text)
    return OmopSource(str(folder))


def test_omop(tmp_path: Path) -> None:
    assert read(omop(tmp_path), tmp_path) == [
        (1, None, "GENDER//Gender//F", None),
        (1, None, "RACE//0", None),
        (1, "1950-02-01 00:00:00.000", "MEDS_BIRTH", None),
        (1, "2020-01-01 10:00:00.000", "HOSPITAL_ADMISSION//Visit//IP", None),
        (1, "2020-01-01 11:00:00.000", "MEASUREMENT//LOINC//2823-3//UCUM//mmol/L", 4.5),
        (1, "2020-01-01 12:00:00.000", "MEASUREMENT//LOINC//2823-3//UCUM//mmol/L", None),
        (1, "2020-01-02 08:00:00.000", "CONDITION//SOURCE//X99", None),
        (1, "2020-01-02 23:59:59.000", "CONDITION//SNOMED//84114007", None),
        (1, "2020-01-05 23:59:59.000", "HOSPITAL_DISCHARGE//Visit//IP", None),
        (1, "2020-01-05 23:59:59.000", "MEDS_DEATH", None),
        (2, None, "GENDER//8507", None),
        (2, None, "RACE//0", None),
        (2, "1960-12-31 04:00:00.000", "MEDS_BIRTH", None),
        (2, "2020-02-01 23:59:59.000", "VISIT_START//9202", None),
    ]


def test_omop_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no table person"):
        OmopSource(str(tmp_path)).fingerprint()
    source = omop(tmp_path, **{"death.csv": "person_id,when\n1,2020-01-05\n"})
    with pytest.raises(DataError, match=r"death\.csv, row 1: no column death_date, which OMOP CDM 5\.4 requires"):
        read(source, tmp_path)
    (tmp_path / "b").mkdir()
    source = omop(tmp_path, **{"death.csv": "person_id,death_date\nx y,2020-01-05\n"})
    assert {row[0] for row in read(source, tmp_path / "b")} != {1, 2}  # ids that are no numbers become hashes
