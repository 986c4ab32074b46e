"""MEDS data that break their contract: one message naming file, row and column, or a documented repair with a count."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ehrseq.config.load import load_settings
from ehrseq.errors import EhrseqError
from ehrseq.workflows import prepare

START = datetime(2020, 1, 1)
SUBJECTS = 40
Columns = dict[str, Any]


def sound_columns() -> Columns:
    """Three events a subject: a static one, two timed."""
    subject = np.repeat(np.arange(SUBJECTS), 3)
    time = [None if i % 3 == 0 else START + timedelta(hours=i % 3) for i in range(len(subject))]
    return {
        "subject_id": pa.array(subject, pa.int64()),
        "time": pa.array(time, pa.timestamp("us")),
        "code": pa.array([["SEX//F", "HR", "TEMP"][i % 3] for i in range(len(subject))]),
        "numeric_value": pa.array([None if i % 3 == 0 else float(i % 7) for i in range(len(subject))], pa.float32()),
    }


def sound_labels() -> Columns:
    return {
        "subject_id": pa.array(range(SUBJECTS), pa.int64()),
        "prediction_time": pa.array([START + timedelta(hours=5)] * SUBJECTS, pa.timestamp("us")),
        "boolean_value": pa.array([i % 3 == 0 for i in range(SUBJECTS)]),
    }


class Dataset:
    """A sound dataset on disk, for a test to spoil."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shard = root / "data" / "train" / "0.parquet"
        self.label_file = root / "labels" / "task" / "0.parquet"
        for folder in (self.shard.parent, self.label_file.parent, root / "metadata"):
            folder.mkdir(parents=True)
        self.columns, self.labels = sound_columns(), sound_labels()
        self.words: list[str] = []
        self.info({"dataset_name": "made", "meds_version": "0.4.1"})

    def info(self, facts: dict[str, Any]) -> None:
        (self.root / "metadata" / "dataset.json").write_text(json.dumps(facts))

    def put(self, column: str, row: int, value: object) -> None:
        values = self.columns[column].to_pylist()
        values[row] = value
        self.columns[column] = pa.array(values, self.columns[column].type)

    def write(self) -> None:
        if not self.shard.exists():
            pq.write_table(pa.table(self.columns), self.shard)
        if not self.label_file.exists():
            pq.write_table(pa.table(self.labels), self.label_file)

    def prepare(self, data: Path) -> prepare.Prepared:
        self.write()
        words = ["source=meds", f"source.path={self.root}", "task.name=task", f"paths.data={data}", *self.words]
        return prepare.run(load_settings(["preprocess.min_subjects=2", *words]))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "meds")


def test_the_sound_dataset_is_accepted(dataset: Dataset, tmp_path: Path) -> None:
    store = dataset.prepare(tmp_path / "data").open()
    assert store.codes == ("HR", "TEMP")
    assert len(store.arrays.sample_time) == SUBJECTS


def null_code(data: Dataset) -> None:
    data.put("code", 7, None)


def null_subject(data: Dataset) -> None:
    data.put("subject_id", 4, None)


def time_back(data: Dataset) -> None:
    data.put("time", 5, START - timedelta(days=1))


def static_after_timed(data: Dataset) -> None:
    data.put("time", 5, None)


def subject_apart(data: Dataset) -> None:
    data.put("subject_id", 8, 0)


def subject_in_two_files(data: Dataset) -> None:
    data.write()
    (data.root / "data" / "held_out").mkdir()
    (data.root / "data" / "held_out" / "0.parquet").write_bytes(data.shard.read_bytes())


def subject_in_two_splits(data: Dataset) -> None:
    table = {"subject_id": [*range(SUBJECTS), 3], "split": ["train"] * SUBJECTS + ["held_out"]}
    pq.write_table(pa.table(table), data.root / "metadata" / "subject_splits.parquet")
    data.words = ["split.method=source"]


def subject_in_no_split(data: Dataset) -> None:
    table = {"subject_id": list(range(SUBJECTS - 1)), "split": ["train"] * (SUBJECTS - 1)}
    pq.write_table(pa.table(table), data.root / "metadata" / "subject_splits.parquet")
    data.words = ["split.method=source"]


def no_split_file(data: Dataset) -> None:
    data.words = ["split.method=source"]


def strange_split_file(data: Dataset) -> None:
    pq.write_table(pa.table({"subject": [1]}), data.root / "metadata" / "subject_splits.parquet")


def text_subject(data: Dataset) -> None:
    data.columns["subject_id"] = data.columns["subject_id"].cast(pa.string())


def float_subject(data: Dataset) -> None:
    data.columns["subject_id"] = data.columns["subject_id"].cast(pa.float64())


def unsigned_subject(data: Dataset) -> None:
    data.columns["subject_id"] = data.columns["subject_id"].cast(pa.uint64())


def zoned_time(data: Dataset) -> None:
    data.columns["time"] = data.columns["time"].cast(pa.timestamp("us", "UTC"))


def text_time(data: Dataset) -> None:
    data.columns["time"] = data.columns["time"].cast(pa.string())


def number_code(data: Dataset) -> None:
    data.columns["code"] = pa.array(range(3 * SUBJECTS))


def text_value(data: Dataset) -> None:
    data.columns["numeric_value"] = data.columns["numeric_value"].cast(pa.string())


def no_time_column(data: Dataset) -> None:
    del data.columns["time"]


def old_column(data: Dataset) -> None:
    data.columns["patient_id"] = data.columns.pop("subject_id")


def old_version(data: Dataset) -> None:
    data.info({"dataset_name": "made", "meds_version": "0.3.3"})


def broken_json(data: Dataset) -> None:
    (data.root / "metadata" / "dataset.json").write_text('{"dataset_name": ')


def cut_parquet(data: Dataset) -> None:
    data.write()
    data.shard.write_bytes(data.shard.read_bytes()[:-20])


def not_parquet(data: Dataset) -> None:
    data.shard.write_text("subject_id,time,code\n")


def no_shards(data: Dataset) -> None:
    data.shard.parent.rmdir()
    data.shard = data.root / "elsewhere.parquet"


def empty_shard_only(data: Dataset) -> None:
    data.columns = {name: column[:0] for name, column in data.columns.items()}


def unknown_task(data: Dataset) -> None:
    data.words = ["task.name=tsk"]


def doubled_label(data: Dataset) -> None:
    data.labels["subject_id"] = pa.array([0, *range(SUBJECTS - 1)], pa.int64())


def null_label(data: Dataset) -> None:
    data.labels["boolean_value"] = pa.array([None, *[True, False] * (SUBJECTS // 2)][:SUBJECTS])


def null_prediction_time(data: Dataset) -> None:
    times = data.labels["prediction_time"].to_pylist()
    data.labels["prediction_time"] = pa.array([*times[:6], None, *times[7:]], pa.timestamp("us"))


def zoned_label(data: Dataset) -> None:
    data.labels["prediction_time"] = data.labels["prediction_time"].cast(pa.timestamp("us", "Europe/Berlin"))


def float_label(data: Dataset) -> None:
    data.labels["boolean_value"] = data.labels["boolean_value"].cast(pa.float32())


def label_of_a_stranger(data: Dataset) -> None:
    data.labels["subject_id"] = pa.array([*range(SUBJECTS - 1), 4711], pa.int64())


def label_files(spoil: Callable[[Dataset], None]) -> Callable[[Dataset], None]:
    """The same fault, met first where labels in files of their own are compared with the events."""

    def spoiled(data: Dataset) -> None:
        spoil(data)
        data.words = ["task=labels", f"task.labels.path={data.label_file}", "task.name=task"]

    spoiled.__name__ = f"label_files_{spoil.__name__}"
    return spoiled


def no_outcomes(data: Dataset) -> None:
    del data.labels["boolean_value"]


def one_class(data: Dataset) -> None:
    data.labels["boolean_value"] = pa.array([True] * SUBJECTS)


def no_labels(data: Dataset) -> None:
    data.labels = {name: column[:0] for name, column in data.labels.items()}


def cut_labels(data: Dataset) -> None:
    data.write()
    data.label_file.write_bytes(data.label_file.read_bytes()[:30])


def not_a_folder(data: Dataset) -> None:
    data.words = [f"source.path={data.root / 'nowhere'}"]


def strange_codes_table(data: Dataset) -> None:
    pq.write_table(pa.table({"name": ["HR"]}), data.root / "metadata" / "codes.parquet")


FAULTS: list[tuple[Callable[[Dataset], None], str]] = [
    (null_code, r"0\.parquet, row 7 \(from 0\), column code: is null"),
    (null_subject, r"0\.parquet, row 4 \(from 0\), column subject_id: is null"),
    (time_back, r"0\.parquet, row 5 \(from 0\), column time: 2019-12-31.* comes after 2020-01-01T01.* subject 1"),
    (static_after_timed, r"row 5 \(from 0\), column time: null comes after 2020"),
    (subject_apart, r"row 8 \(from 0\): subject 0 comes again after other subjects"),
    (subject_in_two_files, r"subject 0 is in two files, .*held_out/0\.parquet and .*train/0\.parquet"),
    (subject_in_two_splits, r"subject_splits\.parquet: subject 3 is in two splits, held_out and train"),
    (subject_in_no_split, r"1 of 40 labelled subjects are in no split, the first is 39"),
    (no_split_file, r"subject_splits\.parquet does not exist; use split\.method=hash"),
    (strange_split_file, r"subject_splits\.parquet: no column subject_id"),
    (text_subject, r"column subject_id: type string, MEDS has int64"),
    (float_subject, r"column subject_id: type double, MEDS has int64"),
    (unsigned_subject, r"column subject_id: type uint64, MEDS has int64"),
    (zoned_time, r"column time: carries the time zone UTC"),
    (text_time, r"column time: type string, MEDS has timestamp"),
    (number_code, r"column code: type int64, MEDS has string"),
    (text_value, r"column numeric_value: type string, MEDS has float32"),
    (no_time_column, r"0\.parquet: no column time; found"),
    (old_column, r"column patient_id is of MEDS 0\.3 or older"),
    (old_version, r"dataset\.json: meds_version is 0\.3\.3, ehrseq reads 0\.4 and later"),
    (broken_json, r"dataset\.json is not valid JSON"),
    (cut_parquet, r"0\.parquet cannot be read as parquet"),
    (not_parquet, r"0\.parquet cannot be read as parquet"),
    (no_shards, r"data holds no parquet files"),
    (empty_shard_only, r"no code with a time is seen in 2 or more"),
    (unknown_task, r"task\.name=tsk: this source has no such labels; did you mean 'task'"),
    (doubled_label, r"subject 0 is labelled twice at 2020-01-01 05:00:00"),
    (null_label, r"the label of subject 0 at .* has no boolean_value"),
    (null_prediction_time, r"0\.parquet, row 6 \(from 0\), column prediction_time: is null"),
    (zoned_label, r"column prediction_time: type Datetime.*MEDS has timestamp"),
    (float_label, r"column boolean_value: type Float32, expected bool"),
    (label_files(cut_parquet), r"0\.parquet cannot be read as parquet"),
    (label_files(not_parquet), r"0\.parquet cannot be read as parquet"),
    (label_files(old_column), r"column patient_id is of MEDS 0\.3 or older"),
    (label_files(null_subject), r"0\.parquet, row 4 \(from 0\), column subject_id: is null"),
    (label_files(label_of_a_stranger), r"1 of 40 labelled subjects have no events in .*, the first is 4711"),
    (no_outcomes, r"there are no outcomes to learn from"),
    (one_class, r"has only positive labels"),
    (no_labels, r"labels/task holds no labels"),
    (cut_labels, r"0\.parquet cannot be read as parquet"),
    (not_a_folder, r"source\.path=.*nowhere is not a folder"),
    (strange_codes_table, r"codes\.parquet: no column code"),
]


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_fault_is_named_and_nothing_is_left(
    spoil: Callable[[Dataset], None], message: str, dataset: Dataset, tmp_path: Path
) -> None:
    spoil(dataset)
    data = tmp_path / "data"
    with pytest.raises(EhrseqError, match=message):
        dataset.prepare(data)
    # What may stay is a hidden folder of finished shards, never a store.
    assert not list(data.glob("stores/[!.]*"))
    assert not list(data.glob("datasets/*"))


def infinite_values(data: Dataset) -> None:
    data.put("numeric_value", 4, float("inf"))
    data.put("numeric_value", 8, float("-inf"))


def test_infinite_values_count_as_missing(dataset: Dataset, tmp_path: Path) -> None:
    infinite_values(dataset)
    dataset.put("numeric_value", 5, float("nan"))
    prepared = dataset.prepare(tmp_path / "data")
    manifest = json.loads((prepared.store / "manifest.json").read_text())
    assert manifest["events"]["infinite_values"] == 2
    store = prepared.open()
    assert np.isnan(store.arrays.value).sum() == 3
    assert np.isfinite(store.arrays.value[~np.isnan(store.arrays.value)]).all()


def other_widths(data: Dataset) -> None:
    data.columns["subject_id"] = data.columns["subject_id"].cast(pa.int32())
    data.columns["time"] = data.columns["time"].cast(pa.timestamp("ns"))
    data.columns["code"] = data.columns["code"].dictionary_encode()
    data.columns["numeric_value"] = data.columns["numeric_value"].cast(pa.float64())


def without_values(data: Dataset) -> None:
    del data.columns["numeric_value"]


def many_row_groups(data: Dataset) -> None:
    pq.write_table(pa.table(data.columns), data.shard, row_group_size=2)


def one_empty_shard_more(data: Dataset) -> None:
    data.write()
    pq.write_table(pa.table(sound_columns()).slice(0, 0), data.root / "data" / "empty.parquet")


def no_metadata(data: Dataset) -> None:
    (data.root / "metadata" / "dataset.json").unlink()


def label_before_the_first_event(data: Dataset) -> None:
    times = data.labels["prediction_time"].to_pylist()
    data.labels["prediction_time"] = pa.array([START - timedelta(days=9), *times[1:]], pa.timestamp("us"))


def other_split_names(data: Dataset) -> None:
    names = ["train", "train", "tuning", "held_out", "external"]
    table = {"subject_id": list(range(SUBJECTS)), "split": [names[i % 5] for i in range(SUBJECTS)]}
    pq.write_table(pa.table(table), data.root / "metadata" / "subject_splits.parquet")
    data.words = ["split.method=source"]


@pytest.mark.parametrize(
    "change",
    [
        other_widths,
        without_values,
        many_row_groups,
        one_empty_shard_more,
        no_metadata,
        label_before_the_first_event,
        other_split_names,
    ],
)
def test_what_meds_allows_is_read(change: Callable[[Dataset], None], dataset: Dataset, tmp_path: Path) -> None:
    plain = Dataset(tmp_path / "plain").prepare(tmp_path / "a").open().arrays
    change(dataset)
    prepared = dataset.prepare(tmp_path / "b")
    arrays = prepared.open().arrays
    if change is not label_before_the_first_event:
        assert arrays.event["time"].tolist() == plain.event["time"].tolist()
        assert arrays.event["code"].tolist() == plain.event["code"].tolist()
    if change in (other_widths, many_row_groups, one_empty_shard_more, no_metadata):
        assert arrays.event.tobytes() == plain.event.tobytes()
    if change is without_values:
        assert np.isnan(arrays.value).all()
    if change is label_before_the_first_event:
        manifest = json.loads((prepared.store / "manifest.json").read_text())
        assert manifest["events"]["empty_histories"] == 1
    if change is other_split_names:
        assert np.unique(arrays.sample_split, return_counts=True)[1].tolist() == [8, 16, 8, 8]
