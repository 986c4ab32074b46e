"""Labels of several targets: joined, encoded with what is missing, and refused where they do not fit."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.config.targets import SeveralTarget, columns_of, read_target
from ehrseq.errors import ConfigError, DataError
from ehrseq.tasks import JoinedLabels, LabelFiles, Labels, SourceLabels, encode
from ehrseq.workflows.build import build_label_maker

TIMES = [datetime(2020, 1, day) for day in (1, 2, 3, 4)]
FRAME = pl.DataFrame(
    {
        "subject_id": [1, 1, 2, 3],
        "prediction_time": pl.Series(TIMES, dtype=pl.Datetime("us")),
        "boolean_value": [True, False, None, True],
        "days": [3.0, None, 8.0, 1.0],
        "kind": ["b", "a", None, "b"],
        "mark_x": [True, None, False, False],
        "mark_y": [None, None, True, False],
        "death_time_to_event_hours": [5.0, 7.0, None, 9.0],
        "death_event": [1, 0, None, 1],
    }
)
PARTS: dict[str, Any] = {
    "died": {"target": {"kind": "binary"}},
    "bucket": {"target": {"kind": "ordinal", "edges": [2, 5]}, "column": "days"},
    "days": {"target": {"kind": "regression"}, "column": "days"},
    "kind": {"target": {"kind": "multiclass"}, "column": "kind"},
    "mark": {"target": {"kind": "multilabel"}, "column": "mark"},
    "when": {"target": {"kind": "survival", "edges": [24]}, "column": "death"},
}


def several(**parts: Any) -> SeveralTarget:
    target = read_target({"kind": "several", "parts": parts or PARTS})
    assert isinstance(target, SeveralTarget)
    return target


def test_outcomes_stand_part_after_part_and_are_missing_one_by_one() -> None:
    nan = np.nan
    found = encode(FRAME, several(), "task")
    expected = {
        "died": [[1], [0], [nan], [1]],
        "bucket": [[1], [nan], [2], [0]],
        "days": [[3], [nan], [8], [1]],
        "kind": [[1], [0], [nan], [1]],
        "mark": [[1, nan], [nan, nan], [0, 1], [0, 0]],
        "when": [[5, 1], [7, 0], [nan, nan], [9, 1]],
    }
    assert isinstance(found.target, SeveralTarget)
    columns = columns_of(found.target.parts)
    assert [part.name for part in columns] == list(expected)
    for part in columns:
        np.testing.assert_array_equal(found.value[:, part.outcomes], np.array(expected[part.name], np.float32))
    assert found.value.shape == (4, columns[-1].outcomes.stop)
    # What the labels settle is written down, and read again in the same order.
    assert read_target(found.target.plain()) == found.target
    kinds = {name: part.target for name, part in found.target.parts.items()}
    assert getattr(kinds["kind"], "classes", ()) == ("a", "b")
    assert getattr(kinds["mark"], "labels", ()) == ("x", "y")


def test_the_order_of_the_parts_outlives_files_that_sort_their_keys() -> None:
    target = several(z=PARTS["died"], b=PARTS["days"], a=PARTS["kind"])
    assert list(target.parts) == ["z", "a", "b"]
    plain = target.plain()
    again = read_target({**plain, "parts": dict(sorted(plain["parts"].items()))})
    assert isinstance(again, SeveralTarget)
    assert list(again.parts) == ["z", "a", "b"]


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"column": "dys"}, "task, part one: the labels have no column dys; found boolean_value, days"),
    ({"column": "days"}, "part one: column days is Float64, which a binary target is not"),
    ({"target": {"kind": "regression"}, "column": "kind"}, "column kind is String, which a regression target is not"),
    ({"target": {"kind": "regression"}}, "part one: a regression target needs labels with a column float_value"),
    ({"target": {"kind": "survival", "edges": [3]}, "column": "mark"}, "needs labels with a column time_to_event"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_labels_that_do_not_fit_a_part_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode(FRAME, several(one={"target": {"kind": "binary"}, **change}, other=PARTS["kind"]), "task")


def test_a_part_of_which_nothing_is_known_is_named() -> None:
    frame = FRAME.with_columns(pl.lit(None, pl.Boolean).alias("boolean_value"))
    with pytest.raises(DataError, match="part died: no label is known"):
        encode(frame, several(), "task")


def test_a_single_target_needs_every_label() -> None:
    with pytest.raises(DataError, match="the label of subject 2 at 2020-01-03 00:00:00 has no boolean_value"):
        encode(FRAME, read_target({"kind": "binary"}), "task")
    # What it does not learn may be missing.
    assert encode(FRAME.filter(pl.col("boolean_value").is_not_null()), read_target({"kind": "binary"}), "task")


class Given:
    """A maker of the labels that it is given."""

    def __init__(self, rows: list[tuple[int, datetime, Any]], *names: str) -> None:
        self.frame = pl.DataFrame(rows, schema=["subject_id", "prediction_time", *names], orient="row")

    def fingerprint(self) -> dict[str, Any]:
        return {"rows": self.frame.height}

    def labels(self, dataset: Path, name: str) -> Labels:
        assert dataset == Path("somewhere")
        return Labels(self.frame, [(f"rows of {name}", self.frame.height)])


def test_labels_are_joined_by_history_and_missing_where_a_part_has_none() -> None:
    one = Given([(1, TIMES[0], True), (2, TIMES[1], False)], "boolean_value")
    two = Given([(2, TIMES[1], 4.5, 1), (1, TIMES[2], 2.0, 0)], "time_to_event_hours", "event")  # type: ignore[list-item]
    maker = JoinedLabels({"died": one, "when": two})
    made = maker.labels(Path("somewhere"), "both")
    assert made.frame.columns == ["subject_id", "prediction_time", "died", "when_time_to_event_hours", "when_event"]
    assert made.frame.rows() == [
        (1, TIMES[0], True, None, None),
        (1, TIMES[2], None, 2.0, 0),
        (2, TIMES[1], False, 4.5, 1),
    ]
    assert made.attrition == [("died: rows of died", 2), ("when: rows of when", 2), ("labelled by any part", 3)]
    assert maker.fingerprint() == {"joined": {"died": {"rows": 2}, "when": {"rows": 2}}}
    with pytest.raises(ConfigError, match="parts has 1 label makers"):
        JoinedLabels({"died": one})


def test_label_files_may_have_columns_of_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    FRAME.write_parquet(path)
    (tmp_path / "data").mkdir()
    events = FRAME.select("subject_id", pl.col("prediction_time").alias("time"), pl.lit("HR").alias("code"))
    events.with_columns(pl.lit(1.0, pl.Float32).alias("numeric_value")).write_parquet(tmp_path / "data" / "0.parquet")
    read = LabelFiles(str(path)).labels(tmp_path, "task").frame
    assert read.sort("subject_id", "prediction_time").equals(FRAME.select(read.columns))
    assert set(read.columns) == set(FRAME.columns)


def test_makers_of_parts_are_built_from_the_configuration() -> None:
    maker = build_label_maker(load_settings(["task=mortality_and_stay_2012"]).task)
    assert isinstance(maker, JoinedLabels)
    assert {name: type(part) for name, part in maker.parts.items()} == {
        "in_hospital_mortality": SourceLabels,
        "length_of_stay": SourceLabels,
    }
    windows = build_label_maker(
        load_settings(["task=mortality_and_stay", "task.labels.parts.stay.delay_hours=30"]).task
    )
    assert windows.fingerprint()["joined"]["stay"]["delay_hours"] == 30
