"""Who is in which group, what is said of a cohort, what a report makes of it."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Evaluate
from ehrseq.config.targets import read_target
from ehrseq.errors import ConfigError
from ehrseq.evaluation.binary import (
    choose_thresholds,
    compare_calibration,
    evaluate_operating_points,
    evaluate_usefulness,
)
from ehrseq.evaluation.cohort import attrition_table, describe_cohort, history_hours, missingness
from ehrseq.evaluation.findings import Findings, Scored
from ehrseq.evaluation.groups import evaluate_subgroups
from ehrseq.evaluation.pictures import draw_by_group, draw_risks
from ehrseq.evaluation.statics import AGE, group_by_statics, group_by_time, read_statics
from ehrseq.metrics import evaluate_predictions
from ehrseq.metrics.logistic import sigmoid
from ehrseq.metrics.recalibration import METHODS, Calibrator, fit_calibrator
from ehrseq.plotting import new_chart, tell
from ehrseq.reporting.page import table_in_words
from ehrseq.store.format import HOUR
from ehrseq.workflows import prepare

OPTIONS: dict[str, Any] = {"replicates": 40, "seed": 0, "level": 0.95}


@pytest.fixture(scope="module")
def config() -> Evaluate:
    return load_settings([]).evaluate


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> prepare.Prepared:
    folder = tmp_path_factory.mktemp("cohort")
    return prepare.run(load_settings(["source.n_subjects=500", f"paths.data={folder}"]))


@pytest.fixture(scope="module")
def scored(config: Evaluate) -> Scored:
    random = np.random.default_rng(0)
    odds = random.normal(-1, 1, 800)
    label = (random.random(800) < sigmoid(odds)).astype(np.float64)
    risk = sigmoid(2 * odds)
    time = np.arange(800) * 20 * 24 * HOUR
    return Scored(label, risk, risk, np.arange(800), time, odds**2, choose_thresholds(label, risk, config))


def write_dataset(folder: Path, rows: list[tuple[int, str | None, str, float | None]]) -> Path:
    (folder / "data").mkdir(parents=True)
    frame = pl.DataFrame(rows, schema=["subject_id", "time", "code", "numeric_value"], orient="row")
    frame = frame.with_columns(pl.col("time").str.to_datetime(time_unit="us"), pl.col("numeric_value").cast(pl.Float32))
    frame.write_parquet(folder / "data" / "0.parquet")
    return folder


def test_groups_come_from_static_codes_and_birth(tmp_path: Path) -> None:
    rows: list[tuple[int, str | None, str, float | None]] = [
        (1, None, "SEX//F", None),
        (1, None, "ETHNICITY//a//b", None),
        (1, "1960-01-01 00:00:00", "MEDS_BIRTH", None),
        (1, "2020-01-01 00:00:00", "SEX//M", None),  # timed: not static
        (2, None, "SEX//M", None),
        (2, None, "ETHNICITY//c", None),
        (3, None, "SEX//M", None),
        (3, "1990-01-01 00:00:00", "MEDS_BIRTH", None),
    ]
    statics = read_statics(write_dataset(tmp_path, rows))
    when = np.array(
        [(np.datetime64("2025-06-01") - np.datetime64("1970-01-01")).astype("timedelta64[us]").astype(int)] * 4
    )
    subject = np.array([3, 1, 2, 1])
    groupings = {item.variable: item for item in group_by_statics(statics, subject, when, None, (18, 45, 65))}
    named = {name: [item.names[number] for number in item.number] for name, item in groupings.items()}
    assert named == {
        AGE: ["18 to 45", "65 and over", "unknown", "65 and over"],
        "ETHNICITY": ["unknown", "a//b", "c", "a//b"],
        "SEX": ["M", "F", "M", "F"],
    }
    assert [item.variable for item in group_by_statics(statics, subject, when, ["sex"], (18,))] == ["SEX"]
    with pytest.raises(ConfigError, match=r"no static code gender// in the data; known: ETHNICITY, SEX, age"):
        group_by_statics(statics, subject, when, ["gender"], (18,))


def test_time_divides_only_where_it_varies() -> None:
    time = np.arange(400) * 24 * HOUR * 2
    by_time, by_history = group_by_time(time, np.arange(400.0), np.ones(400))
    assert by_time.names[:2] == ("1970-Q1", "1970-Q2")
    assert (by_time.number == (time / (24 * HOUR) >= 90).astype(int))[:60].all()
    assert np.abs(np.bincount(by_history.number) - 100).max() <= 1  # quarters, but for ties at their ends
    alike = np.zeros(50, np.int64), np.full(50, 48.0)
    assert group_by_time(*alike, np.ones(50)) == []
    (by_events,) = group_by_time(*alike, np.arange(0.0, 500.0, 10))
    assert (by_events.variable, by_events.names[0]) == ("history_events", "up to 120")


def test_the_cohort_is_counted_right_and_small_cells_are_hidden(prepared: prepare.Prepared) -> None:
    store, statics = prepared.open(), read_statics(prepared.dataset)
    target = load_settings([]).task.target
    tables = describe_cohort(store, statics, [], target, "held_out", 11).tables
    held = store.samples("held_out")
    table = tables["table1"].filter(pl.col("characteristic") == "subjects with the outcome")["held_out"][0]
    count = int(store.arrays.sample_label[held, 0].sum())
    assert table == f"{count:,} ({count / len(held):.1%})"
    loop: dict[str, int] = {}
    for sample in held:
        begin, end = store.arrays.sample_begin[sample], store.arrays.sample_end[sample]
        for code in set(store.arrays.code[begin:end].tolist()):
            loop[store.codes[code]] = loop.get(store.codes[code], 0) + 1
    for item in missingness(store, "held_out", 1).iter_rows(named=True):
        assert item["measured"] == pytest.approx(loop.get(item["code"], 0) / len(held))
    for item in tables["missingness"].iter_rows(named=True):
        have = loop.get(item["code"], 0)
        small = 0 < have < 11 or 0 < len(held) - have < 11
        assert item["bound"] == small
        assert small or item["measured"] == pytest.approx(have / len(held))
        assert not small or item["measured"] * len(held) in (pytest.approx(11), pytest.approx(len(held) - 11))
    hours = history_hours(store, held[:5])
    first = store.arrays.time[store.arrays.sample_begin[held[:5]]]
    assert hours == pytest.approx((store.arrays.sample_time[held[:5]] - first) / HOUR)
    flow = attrition_table([("all", 1000), ("adult", 997), ("known", 600)], 11)
    assert flow["left"].to_list() == [None, 997, 600]
    assert flow["left_out"].to_list() == [None, None, 397]


def test_subgroup_table_hides_counts_of_small_groups(scored: Scored, config: Evaluate, tmp_path: Path) -> None:
    from ehrseq.metrics.groups import Grouping

    number = np.where(np.arange(800) < 6, 0, 1 + np.arange(800) % 3)
    found = evaluate_subgroups(
        scored, [Grouping("unit", ("tiny", "a", "b", "c"), number)], "at_youden", config, OPTIONS
    )
    table = found.tables["groups"]
    assert table["shown"].to_list().count(False) == 2  # tiny, and one that would give it away
    hidden = table.filter(~pl.col("shown")).drop("variable", "group", "shown", "flags")
    assert hidden.null_count().row(0) == (2,) * hidden.width
    assert {"groups/flagged", "groups/auroc_lowest", "groups/auroc_gap_widest"} == set(found.metrics)
    draw_by_group(table, found.metrics, tmp_path)
    assert (tmp_path / "groups.svg").read_text().count(">hidden<") == 2 * 3  # two groups, three panels


def test_recalibration_is_compared_and_thresholds_are_tabled(scored: Scored, config: Evaluate) -> None:
    ways: dict[str, Calibrator] = {method: fit_calibrator(method, scored.label, scored.raw) for method in METHODS}
    mended = replace(scored, mended={method: way.apply(scored.raw) for method, way in ways.items()})
    tables = compare_calibration(mended, "platt", config, OPTIONS).tables
    slopes = dict(tables["calibration"].select("recalibration", "calibration_slope").iter_rows())
    assert slopes["none"] < 0.7
    assert slopes["platt"] == pytest.approx(1, abs=0.02)
    assert tables["calibration"].filter(pl.col("used"))["recalibration"].to_list() == ["platt"]
    assert tables["reliability"]["predictions"].min() >= config.min_group  # type: ignore[operator]
    points = evaluate_operating_points(scored, config, OPTIONS)
    assert points.metrics["at_sensitivity/sensitivity"].value >= 0.9  # type: ignore[operator]
    assert points.metrics["at_budget/alert_rate"].value <= 0.1  # type: ignore[operator]
    alarms = table_in_words("alarms", pl.DataFrame({"rule": ["at_budget", "at_utility"], "threshold": [0.1, 0.2]}))
    assert alarms.columns == ["rule", "alert budget", "best utility"]
    words = table_in_words("thresholds", points.tables["thresholds"])
    assert words.columns[0] == "rule"
    assert re.fullmatch(r"0\.\d{3} \(0\.\d{3} to [01]\.\d{3}\)", words.rows[1][1])


def test_a_chart_is_the_same_bytes_and_tells_its_points(tmp_path: Path) -> None:
    def draw(folder: Path) -> tuple[bytes, str]:
        folder.mkdir()
        with new_chart(folder / "a.png", 'the "words" & <more>', 3, 2) as figure:
            axes = figure.subplots()
            (line,) = axes.plot([0, 1, 2], [0, np.nan, 2], label="told")
            tell(line, ["zero", "gone", "two"])
            axes.plot([0, 2], [1, 1], label="_silent")
            axes.set(xlim=(0, 2), ylim=(0, 2), xlabel="x")
        return (folder / "a.png").read_bytes(), (folder / "a.svg").read_text()

    first, second = draw(tmp_path / "1"), draw(tmp_path / "2")
    assert first == second
    from xml.etree import ElementTree

    root = ElementTree.fromstring(first[1])
    assert root.get("aria-label") == 'the "words" & <more>'
    (axes,) = json.loads(root.get("data-hover") or "")
    (series,) = axes["series"]
    assert series["name"] == "told"
    assert [words for _, _, words in series["points"]] == ["zero", "two"]
    x0, y0, x1, y1 = axes["box"]
    assert series["points"][0][:2] == [x0, y1]
    assert series["points"][1][:2] == [x1, y0]


@pytest.mark.parametrize("case", ["one class", "constant", "three"])
def test_what_is_undefined_is_drawn_as_such(case: str, config: Evaluate, tmp_path: Path) -> None:
    label, risk = {
        "one class": (np.zeros(40), np.linspace(0.1, 0.9, 40)),
        "constant": (np.arange(40) % 2.0, np.full(40, 0.5)),
        "three": (np.array([0.0, 1, 0]), np.array([0.0, 1, 0.5])),
    }[case]
    subject = np.arange(len(label))
    thresholds = choose_thresholds(label, risk, config)
    own = Scored(label, risk, risk, subject, subject * HOUR, np.ones(len(label)), thresholds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate_operating_points(own, config, OPTIONS)
        found |= compare_calibration(own, "none", config, OPTIONS) | evaluate_usefulness(own, config, OPTIONS)
        estimates = evaluate_predictions(
            read_target({"kind": "binary"}), label[:, None].astype(np.float32), risk[:, None], subject, **OPTIONS
        )
        draw_risks([(own, Findings(estimates) | found)], "at_budget", config, tmp_path)
    if case == "one class":
        assert estimates["auroc"].value is None
        assert "undefined" in (tmp_path / "roc.svg").read_text()
    assert len(list(tmp_path.glob("*.svg"))) == 4
