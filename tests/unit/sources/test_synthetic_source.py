from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from meds.schema import CodeMetadataSchema, DataSchema, LabelSchema
from sklearn.metrics import roc_auc_score

from ehrseq.sources.synthetic import SyntheticShard, SyntheticSource, generate
from ehrseq.sources.synthetic_rule import INTERCEPT, RULE


@pytest.fixture(scope="module")
def shard() -> SyntheticShard:
    return generate(0, 10_000, seed=0)


def test_rule_against_a_slow_loop(shard: SyntheticShard) -> None:
    scores = dict(shard.scores.select("subject_id", "score").iter_rows())
    cuts = dict(shard.labels.select("subject_id", "prediction_time").iter_rows())
    some = set(list(cuts)[:250])
    planted = {(row[0], row[2], row[3], row[5]) for row in shard.planted.iter_rows() if row[0] in some}
    expected = set()
    total = dict.fromkeys(some, INTERCEPT)
    events = shard.events.filter(pl.col("subject_id").is_in(list(some)), pl.col("time").is_not_null())
    for condition in RULE:
        held = set()
        for subject, time, code, value in events.iter_rows():
            hours = (cuts[subject] - time).total_seconds() / 3600
            if code != condition.code or not condition.lag_from <= hours <= condition.lag_to:
                continue
            if condition.comparison == ">" and not value > condition.threshold:
                continue
            if condition.comparison == "<" and not value < condition.threshold:
                continue
            held.add(subject)
            expected.add((subject, time, code, condition.name))
        for subject in held:
            total[subject] += condition.weight
    assert planted == expected
    assert {subject: scores[subject] for subject in some} == pytest.approx(total)


def test_rule_is_the_ceiling_and_outcome_is_not_rare(shard: SyntheticShard) -> None:
    label = shard.labels["boolean_value"]
    assert 0.92 < roc_auc_score(label, shard.scores["score"]) < 0.96
    assert 0.2 < label.to_numpy().mean() < 0.35
    # Drawn from the stated probability: the mean agrees within five standard errors.
    assert abs(label.to_numpy().mean() - shard.scores["probability"].to_numpy().mean()) < 5 * 0.45 / 100


def test_old_values_are_decoys(shard: SyntheticShard) -> None:
    lactate = RULE[0]
    aged = shard.events.filter(pl.col("code") == lactate.code, pl.col("numeric_value") > lactate.threshold).join(
        shard.labels, on="subject_id"
    )
    hours = (aged["prediction_time"] - aged["time"]).dt.total_seconds() / 3600
    old = set(aged.filter(hours > 12)["subject_id"]) - set(aged.filter(hours <= 12)["subject_id"])
    assert len(old) > 1000
    rate = shard.labels.filter(pl.col("subject_id").is_in(list(old)))["boolean_value"].mean()
    recent = shard.labels.filter(pl.col("subject_id").is_in(aged.filter(hours <= 12)["subject_id"].to_list()))
    assert recent["boolean_value"].mean() > rate + 0.3  # type: ignore[operator]


def test_sicker_subjects_are_measured_more_often(shard: SyntheticShard) -> None:
    per_subject = shard.events.group_by("subject_id").agg(
        pl.col("numeric_value").filter(pl.col("code") == "LAB//urea//mg/dL").count().alias("labs"),
        pl.col("numeric_value").filter(pl.col("code") == "VITAL//heart_rate//bpm").mean().alias("rate"),
        (pl.col("time").max() - pl.col("time").min()).dt.total_hours().alias("hours"),
    )
    per_subject = per_subject.drop_nulls().filter(pl.col("hours") > 12)
    correlation = np.corrcoef(per_subject["labs"] / per_subject["hours"], per_subject["rate"])[0, 1]
    assert correlation > 0.05  # 10,000 subjects: five standard errors


def test_events_are_sorted_and_none_is_later_than_prediction(shard: SyntheticShard) -> None:
    events = shard.events.with_row_index("row")
    again = events.sort("subject_id", "time", "row", nulls_last=False)
    assert events.equals(again)
    joined = shard.events.join(shard.labels, on="subject_id")
    assert joined.filter(pl.col("time") > pl.col("prediction_time")).is_empty()
    statics = shard.events.filter(pl.col("time").is_null())["code"].unique()
    assert all(code.startswith(("AGE//", "SEX//", "ADMISSION//")) for code in statics)


def test_a_subject_does_not_depend_on_the_number_of_subjects(shard: SyntheticShard) -> None:
    few = generate(4000, 300, seed=0)  # across two blocks
    wanted = pl.col("subject_id").is_in(few.labels["subject_id"].to_list())
    assert few.events.equals(shard.events.filter(wanted))
    assert few.labels.equals(shard.labels.filter(wanted))
    assert not generate(0, 300, seed=1).events.equals(generate(0, 300, seed=0).events)


def test_written_dataset_is_valid_and_repeats(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        root = tmp_path / name
        root.mkdir()
        counts = SyntheticSource(500, seed=3).write(root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        written.append({path.relative_to(root): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert counts["subjects"] == counts["labels"] == 500
    DataSchema.validate(pq.read_table(root / "data" / "0000.parquet"))
    LabelSchema.validate(pq.read_table(root / "labels" / "in_hospital_mortality" / "0000.parquet"))
    CodeMetadataSchema.validate(pq.read_table(root / "metadata" / "codes.parquet"))
    codes = set(pl.read_parquet(root / "metadata" / "codes.parquet")["code"])
    assert set(pl.read_parquet(root / "data" / "0000.parquet")["code"]) <= codes
