"""Window tasks against a plain loop over the events, on random records; and what they refuse."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ehrseq.errors import ConfigError, DataError
from ehrseq.meds import write
from ehrseq.tasks import AcesLabels, WindowLabels

START = datetime(2020, 1, 1)
CODES = ["ADMISSION//ER", "DISCHARGE//HOME", "DISCHARGE//DIED", "SEPSIS", "MEDS_DEATH", "LAB"]
Events = list[tuple[int, str]]  # (hour, code) of one subject, sorted by hour

TASKS: dict[str, dict[str, Any]] = {
    "mortality": {
        "predict": "start",
        "delay_hours": 4,
        "outcome": ["MEDS_DEATH", "DISCHARGE//DIED"],
        "within": "window",
        "exclude": "MEDS_DEATH",
    },
    "readmission": {"outcome": "ADMISSION", "horizon_hours": 10, "exclude": ["MEDS_DEATH", "DISCHARGE//DIED"]},
    "followed": {"outcome": "ADMISSION", "horizon_hours": 10, "follow_up": "require"},
    "long_stay": {"predict": "start", "delay_hours": 1, "longer_than_hours": 6},
    "onset": {
        "predict": "start",
        "delay_hours": 1,
        "every_hours": 2,
        "outcome": "SEP*",
        "horizon_hours": 5,
        "exclude": "SEPSIS",
    },
    "next_visit": {"outcome": "LAB", "within": "next_window"},
    "length": {"predict": "start", "delay_hours": 2, "gives": "hours_left"},
    "time_to_event": {"outcome": "SEP*", "gives": "time_to_outcome", "exclude": "MEDS_DEATH"},
    "time_in_window": {"predict": "start", "outcome": "LAB", "within": "window", "gives": "time_to_outcome"},
}


def is_a(code: str, patterns: str | list[str]) -> bool:
    wanted = [patterns] if isinstance(patterns, str) else patterns
    return any(
        code == item or code.startswith(f"{item}//") or (item.endswith("*") and code.startswith(item[:-1]))
        for item in wanted
    )


def slow_numbers(
    events: Events, task: dict[str, Any], time: int, end: int, hits: list[int]
) -> tuple[float, ...] | None:
    """What a prediction at `time` is to say, where that is a number."""
    if task["gives"] == "hours_left":
        return (float(end - time),)
    limit = end if task.get("within") == "window" else events[-1][0]
    later = [hour for hour in hits if time < hour <= limit]
    until = later[0] if later else limit
    return (float(until - time), int(bool(later))) if until > time else None


def slow(events: Events, task: dict[str, Any]) -> dict[int, Any]:  # noqa: PLR0912
    """Prediction hour to label, event by event."""
    windows: list[tuple[int, int]] = []
    for hour, code in events:
        if is_a(code, "ADMISSION"):
            ends = [end for end, closing in events if is_a(closing, "DISCHARGE") and end >= hour]
            if ends and ends[0] not in [end for _, end in windows]:
                windows.append((hour, ends[0]))
    found: dict[int, Any] = {}
    for index, (begin, end) in enumerate(windows):
        at = (begin if task.get("predict") == "start" else end) + task.get("delay_hours", 0)
        times = [at]
        if task.get("every_hours"):
            times = list(range(at, end, task["every_hours"]))
        for time in times:
            if task.get("predict") == "start" and time >= end:
                continue
            if any(is_a(code, task.get("exclude", [])) and begin <= hour <= time for hour, code in events):
                continue
            hits = [hour for hour, code in events if is_a(code, task.get("outcome", []))]
            if "gives" in task:
                numbers = slow_numbers(events, task, time, end, hits)
                if numbers is not None:
                    found.setdefault(time, numbers)
                continue
            label: bool
            if "longer_than_hours" in task:
                label = end - begin > task["longer_than_hours"]
            elif task.get("within") == "window":
                label = any(time < hour <= end for hour in hits)
            elif task.get("within") == "next_window":
                if index + 1 == len(windows):
                    continue
                label = any(windows[index + 1][0] <= hour <= windows[index + 1][1] for hour in hits)
            else:
                until = time + task["horizon_hours"]
                label = any(time < hour <= until for hour in hits)
                dead = any(code == "MEDS_DEATH" and time <= hour <= until for hour, code in events)
                if task.get("follow_up") == "require" and not label and not dead and events[-1][0] < until:
                    continue
            found.setdefault(time, label)
    return found


def put(folder: Path, subjects: list[Events]) -> Path:
    rows = [(i, START + timedelta(hours=hour), code) for i, events in enumerate(subjects) for hour, code in events]
    frame = pl.DataFrame(
        rows, schema={"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String}, orient="row"
    ).with_columns(pl.lit(None, pl.Float32).alias("numeric_value"))
    (folder / "data").mkdir(exist_ok=True)
    write.write_events(frame, folder / "data" / "0.parquet")
    return folder


records = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(CODES)), min_size=1, max_size=14).map(
    lambda events: sorted(events, key=lambda event: event[0])
)


@pytest.mark.parametrize("name", list(TASKS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(subjects=st.lists(records, min_size=1, max_size=5))
def test_labels_equal_the_plain_loop(name: str, subjects: list[Events], tmp_path: Path) -> None:
    task = TASKS[name]
    maker = WindowLabels(start="ADMISSION", end="DISCHARGE", **task)
    expected = [
        (i, START + timedelta(hours=hour), *(label if isinstance(label, tuple) else (label,)))
        for i, events in enumerate(subjects)
        for hour, label in sorted(slow(events, task).items())
    ]
    folder = put(tmp_path, subjects)
    if not expected:
        with pytest.raises(DataError, match="no prediction is left"):
            maker.labels(folder, name)
        return
    labels = maker.labels(folder, name)
    assert labels.frame.rows() == expected
    counts = [count for step, count in labels.attrition if step != "positive"]
    assert counts == sorted(counts, reverse=True) or "every_hours" in task
    if "gives" not in task:
        assert labels.attrition[-1] == ("positive", sum(row[2] for row in expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": []}, "start is empty"),
        ({"predict": "middle"}, "predict is 'middle'; allowed is one of start, end"),
        ({"end": []}, "end is empty; this task needs the codes that close a window"),
        ({"gives": "hours_left"}, "gives=hours_left needs predict=start"),
        ({"gives": "hours_left", "predict": "start"}, "gives=hours_left has no outcome"),
        ({"gives": "time_to_outcome", "outcome": []}, "gives=time_to_outcome needs an outcome"),
        ({"outcome": []}, "give either outcome or longer_than_hours"),
        ({"horizon_hours": None}, "within=horizon and horizon_hours=None do not go together"),
        ({"horizon_hours": -1.0}, "horizon_hours is -1.0; allowed are positive numbers"),
        ({"delay_hours": -1.0}, "delay_hours is -1.0; allowed are 0 and more"),
        ({"outcome": [], "horizon_hours": None, "longer_than_hours": 3.0}, "is known at the end of the window"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    sound = {"start": "A", "end": "B", "outcome": "C", "horizon_hours": 3.0}
    with pytest.raises(ConfigError, match=message):
        WindowLabels(**{**sound, **arguments})


ACES_TASK = """
predicates:
  admission: {code: {regex: "ADMISSION//.*"}}
  discharge: {code: {regex: "DISCHARGE//.*"}}
  death: {code: MEDS_DEATH}
trigger: admission
windows:
  input: {start: null, end: trigger + 24h, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  gap: {start: input.end, end: start + 0h, start_inclusive: false, end_inclusive: true, has: {}}
  target: {start: input.end, end: start -> discharge, start_inclusive: false, end_inclusive: true, label: death}
"""


def test_aces_task_files(tmp_path: Path) -> None:
    pytest.importorskip("aces", reason="the extra aces is not installed")
    (tmp_path / "task.yaml").write_text(ACES_TASK)
    folder = put(
        tmp_path,
        [
            [(0, "ADMISSION//ER"), (30, "MEDS_DEATH"), (31, "DISCHARGE//DIED")],
            [(0, "ADMISSION//ER"), (40, "DISCHARGE//HOME")],
        ],
    )
    labels = AcesLabels(str(tmp_path / "task.yaml")).labels(folder, "aces")
    at = START + timedelta(hours=24)
    assert labels.frame.rows() == [(0, at, True), (1, at, False)]


def test_aces_that_is_not_installed_is_named(tmp_path: Path) -> None:
    try:
        import aces  # noqa: F401
    except ImportError:
        (tmp_path / "task.yaml").write_text(ACES_TASK)
        with pytest.raises(DataError, match=r"pip install 'ehrseq\[aces\]'"):
            AcesLabels(str(tmp_path / "task.yaml")).labels(tmp_path, "aces")
    with pytest.raises(DataError, match=r"nowhere\.yaml does not exist"):
        AcesLabels(str(tmp_path / "nowhere.yaml")).fingerprint()
