import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.errors import DataError
from ehrseq.meds.external import split_by_site, split_by_time
from ehrseq.meds.splits import assign_splits, hash_subjects

BASE = load_settings().split
TIME = datetime(2020, 1, 1)


def labels(count: int, share: float = 0.2, each: int = 1) -> pl.DataFrame:
    subject = np.repeat(np.arange(count) * 7 + 3, each)
    return pl.DataFrame(
        {
            "subject_id": subject,
            "prediction_time": [datetime(2020, 1, 1 + i % each) for i in range(count * each)],
            "boolean_value": np.repeat(np.arange(count) < count * share, each),
        }
    )


def sizes(frame: pl.DataFrame) -> dict[str, int]:
    return dict(frame.group_by("split").len().iter_rows())


def test_shares_are_exact_and_stratified() -> None:
    table = labels(1000)
    splits = assign_splits(table, BASE)
    assert sizes(splits) == {"train": 640, "tuning": 160, "held_out": 200}
    positive = table.join(splits, on="subject_id").group_by("split").agg(pl.col("boolean_value").sum())
    assert dict(positive.iter_rows()) == {"train": 128, "tuning": 32, "held_out": 40}


def test_split_is_by_subject_and_independent_of_row_order() -> None:
    table = labels(300, each=3)
    splits = assign_splits(table, BASE)
    assert splits["subject_id"].is_unique().all()
    assert splits.height == 300
    assert assign_splits(table.sample(fraction=1.0, shuffle=True, seed=1), BASE).equals(splits)


def test_seeds_give_unrelated_splits() -> None:
    table = labels(2000)
    first, second = (
        assign_splits(table, BASE.model_copy(update={"seed": seed}))["split"].eq("held_out").to_numpy()
        for seed in (0, 1)
    )
    # Two independent fifths share a fifth of themselves: 80 of 400, standard deviation 7.
    assert 50 < (first & second).sum() < 110


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_partition_the_subjects(folds: int) -> None:
    table = labels(503)
    held, tuned = [], []
    for fold in range(folds):
        splits = assign_splits(table, BASE.model_copy(update={"folds": folds, "fold": fold}))
        assert splits.height == 503
        held += splits.filter(pl.col("split") == "held_out")["subject_id"].to_list()
        tuned += splits.filter(pl.col("split") == "tuning")["subject_id"].to_list()
    assert sorted(held) == sorted(table["subject_id"])
    assert len(set(tuned)) == len(tuned) if folds == 5 else tuned


def test_hash_is_pinned() -> None:
    """Another hash would move subjects between the splits of published results."""
    got = hash_subjects(np.array([0, 1, 132539, -5, 2**62]), seed=0)
    assert [f"{value:016x}" for value in got] == PINNED


PINNED = ["e8d6265b175d82fc", "1462986577003bd2", "4869d27799c3b178", "328d4957968f4938", "8dd7cbe8df8125ea"]


def test_one_class_and_too_few_are_refused() -> None:
    with pytest.raises(DataError, match=r"split train has only negative labels \(.*0 of all 100 labels are positive\)"):
        assign_splits(labels(100, share=0.0), BASE)
    with pytest.raises(DataError, match="split tuning has only negative labels"):
        assign_splits(labels(100, share=0.02), BASE)
    with pytest.raises(DataError, match="split tuning would be empty: 2 subjects are too few"):
        assign_splits(labels(2, share=0.5), BASE)


def test_one_class_is_enough_where_labels_are_not_what_is_learned() -> None:
    frame = assign_splits(labels(100, share=0), BASE, both_classes=False)
    assert sizes(frame) == {"train": 64, "tuning": 16, "held_out": 20}
    assert assign_splits(labels(100), BASE, both_classes=False).equals(assign_splits(labels(100), BASE))
    with pytest.raises(DataError, match="would be empty"):
        assign_splits(labels(2), BASE, both_classes=False)


def test_inner_folds_partition_what_is_not_held_out() -> None:
    table = labels(503)
    nested = BASE.model_copy(update={"folds": 5, "inner_folds": 3})
    for fold in range(5):
        splits = [
            assign_splits(table, nested.model_copy(update={"fold": fold, "inner_fold": inner})) for inner in range(3)
        ]
        held_out = [set(of(frame, "held_out")) for frame in splits]
        assert held_out[0] == held_out[1] == held_out[2]
        tuned = [subject for frame in splits for subject in of(frame, "tuning")]
        assert len(set(tuned)) == len(tuned)
        assert set(tuned) | held_out[0] == set(table["subject_id"])
        tables = [table.filter(pl.col("subject_id").is_in(of(frame, "tuning"))) for frame in splits]
        positive = [part["boolean_value"].mean() for part in tables]
        assert positive == pytest.approx([0.2] * 3, abs=0.02)


def of(frame: pl.DataFrame, split: str) -> list[int]:
    return frame.filter(pl.col("split") == split)["subject_id"].to_list()


def dataset(folder: Path, count: int) -> tuple[Path, pl.DataFrame]:
    """Events of subjects who came a day after one another, in three hospitals, and a prediction some days later."""
    ids = [number * 7 + 3 for number in range(count)]
    came = [TIME + timedelta(days=number * 37 % count) for number in range(count)]  # not in the order of the ids
    rows: list[tuple[int, datetime | None, str]] = []
    for number, subject in enumerate(ids):
        rows.append((subject, None, f"SITE//{'abc'[number % 3]}"))
        rows.append((subject, datetime(1950, 1, 1), "MEDS_BIRTH"))
        rows.append((subject, came[number], "X"))
    (folder / "data").mkdir(parents=True)
    columns = pl.Schema({"subject_id": pl.Int64(), "time": pl.Datetime("us"), "code": pl.String()})
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    frame.write_parquet(folder / "data" / "0.parquet")
    (folder / "metadata").mkdir()
    where = pl.DataFrame({"subject_id": ids, "hospital": [f"h{number % 2}" for number in range(count)]})
    where.write_parquet(folder / "metadata" / "subjects.parquet")
    predicted = [time + timedelta(days=(subject % 5)) for subject, time in zip(ids, came, strict=True)]
    early = pl.DataFrame({"subject_id": ids, "prediction_time": came})
    late = pl.DataFrame({"subject_id": ids, "prediction_time": predicted})
    table = pl.concat([early, late]).with_columns((pl.col("subject_id") // 7 % 5 == 0).alias("boolean_value"))
    return folder, table.with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).unique().sort("subject_id")


@pytest.mark.parametrize("calendar", ["prediction", "first_event"])
def test_time_goes_one_way(tmp_path: Path, calendar: str) -> None:
    root, table = dataset(tmp_path / "meds", 300)
    config = BASE.model_copy(update={"method": "time", "stratify": False, "calendar": calendar})
    splits = split_by_time(root, table, config)
    assert splits.height == 300
    events = pl.read_parquet(root / "data" / "0.parquet").filter(pl.col("code") == "X")
    dated = (
        table.group_by("subject_id").agg(pl.col("prediction_time").max().alias("when"))
        if calendar == "prediction"
        else events.select("subject_id", when="time")
    ).join(splits, on="subject_id")
    ranges = {name: dated.filter(pl.col("split") == name)["when"] for name in ("train", "tuning", "held_out")}
    assert ranges["train"].max() < ranges["tuning"].min()  # type: ignore[operator]
    assert ranges["tuning"].max() < ranges["held_out"].min()  # type: ignore[operator]
    assert abs(sizes(splits)["held_out"] - 60) <= 5
    assert abs(sizes(splits)["tuning"] - 48) <= 5


def test_data_without_a_calendar_are_refused(tmp_path: Path) -> None:
    config = BASE.model_copy(update={"method": "time"})
    with pytest.raises(DataError, match=r"all 50 subjects have the same time .*no calendar"):
        split_by_time(tmp_path, labels(50), config)


@pytest.mark.parametrize(
    ("sites", "site", "count"), [("SITE", "b", 100), ("metadata/subjects.parquet:hospital", "h1", 150)]
)
def test_one_site_is_left_out(tmp_path: Path, sites: str, site: str, count: int) -> None:
    root, table = dataset(tmp_path / "meds", 300)
    config = BASE.model_copy(update={"method": "site", "sites": sites, "site": site})
    splits = split_by_site(root, table, config)
    rank = splits["subject_id"].to_numpy() // 7
    held_out = splits["split"].to_numpy() == "held_out"
    assert (held_out == ((rank % 3 == 1) if sites == "SITE" else (rank % 2 == 1))).all()
    assert held_out.sum() == count
    assert sizes(splits)["tuning"] == pytest.approx((300 - count) * 0.2, abs=2)
    inner = config.model_copy(update={"inner_folds": 4, "inner_fold": 3})
    assert sizes(split_by_site(root, table, inner))["tuning"] == pytest.approx((300 - count) / 4, abs=2)


@pytest.mark.parametrize(
    ("sites", "site", "message"),
    [
        ("SITE", "d", "split.site=d: no such site; known: a, b, c"),
        ("STATE", "a", "no static event has a code STATE//"),
        ("metadata/subjects.parquet:ward", "a", "has no column ward"),
        ("../elsewhere.parquet:ward", "a", "is not a table in the dataset"),
    ],
)
def test_wrong_sites_are_told(tmp_path: Path, sites: str, site: str, message: str) -> None:
    root, table = dataset(tmp_path / "meds", 60)
    with pytest.raises(DataError, match=re.escape(message)):
        split_by_site(root, table, BASE.model_copy(update={"method": "site", "sites": sites, "site": site}))


def test_subjects_without_a_site_are_told(tmp_path: Path) -> None:
    root, table = dataset(tmp_path / "meds", 60)
    more = pl.concat([table, table.head(1).with_columns(pl.lit(999_999).cast(pl.Int64).alias("subject_id"))])
    with pytest.raises(DataError, match="of 61 labelled subjects 1 of no site"):
        split_by_site(root, more, BASE.model_copy(update={"method": "site", "sites": "SITE", "site": "a"}))
