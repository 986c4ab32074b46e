from datetime import datetime

import numpy as np
import polars as pl
import pytest

from ehrseq.config.schema import Split
from ehrseq.errors import DataError
from ehrseq.meds.splits import assign_splits, hash_subjects

BASE = Split(method="hash", tuning=0.16, held_out=0.2, stratify=True, seed=0, folds=None, fold=0)
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
