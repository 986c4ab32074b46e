"""Statistics gathered in parts against numpy and scikit-learn on the whole."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Preprocess
from ehrseq.meds import schema, write
from ehrseq.preprocess import Preprocessor, build_store, fit_dataset
from ehrseq.preprocess.hierarchy import Hierarchy
from ehrseq.preprocess.histories import History
from ehrseq.preprocess.statistics import Statistics, gather, merge
from ehrseq.store import open_store
from ehrseq.store.search import search_within
from ehrseq.workflows.engine import SerialEngine

Row = tuple[int, float | None, str, float | None]
CONFIG = load_settings(["preprocess.min_subjects=2", "preprocess.log=none", "preprocess.clip=null"]).preprocess


def keep_all(_codes: Any, _number: Any, value: Any) -> Any:
    return value, np.ones(len(value), bool)


@st.composite
def histories(draw: st.DrawFn) -> History:
    subjects = draw(st.integers(1, 5))
    size = draw(st.integers(0, 40))
    numbers = st.one_of(st.floats(-50, 1000, width=32), st.just(float("nan")))
    rows = np.array(draw(st.lists(st.integers(0, subjects - 1), min_size=size, max_size=size)), np.int64)
    return History(
        subject=np.arange(subjects) + draw(st.integers(0, 3)) * 10,
        count=np.bincount(rows, minlength=subjects),
        time=np.zeros(size, np.int64),
        static=np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool),
        code=np.array(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), np.int64),
        value=np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float32),
        codes=["b", "a", "d", "c"],
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(histories(), min_size=1, max_size=4))
def test_merged_parts_equal_numpy_on_the_whole(parts: list[History]) -> None:
    # Parts hold different subjects.
    parts = [History(part.subject + 1000 * i, *list(vars(part).values())[1:]) for i, part in enumerate(parts)]
    found = merge([gather(part, keep_all, few=3, sampled=1.0) for part in parts])
    rows = [
        (bool(static), part.codes[code], int(part.subject[row]), float(value))
        for part in parts
        for static, code, row, value in zip(part.static, part.code, part.row, part.value, strict=True)
    ]
    assert list(found.keys) == sorted({(static, code) for static, code, _, _ in rows})
    for index, key in enumerate(found.keys):
        mine = [row for row in rows if row[:2] == key]
        values = np.array([row[3] for row in mine if not np.isnan(row[3])])
        people = {row[2] for row in mine}
        assert found.events[index] == len(mine)
        assert found.subjects[index] == len(people)
        if len(people) < 3:
            assert found.rare[key] == people
        check_moments(found, index, values)
        if len(values):
            assert sorted(found.sample[key].tolist()) == sorted(values.tolist())


def check_moments(found: Statistics, index: int, values: np.ndarray[Any, Any]) -> None:
    assert found.plain.count[index] == len(values)
    if len(values):
        assert found.plain.mean[index] == pytest.approx(values.mean(), rel=1e-9, abs=1e-9)
        assert found.plain.deviation[index] == pytest.approx(values.std(), rel=1e-7, abs=1e-6)
        third = ((values - values.mean()) ** 3).sum()
        assert found.plain.third[index] == pytest.approx(third, rel=1e-6, abs=1e-3)
        assert found.negative[index] == (values < 0).sum()
        assert found.positive[index] == (values > 0).sum()
        if not (values < 0).any():
            assert found.log.mean[index] == pytest.approx(np.log1p(values).mean(), rel=1e-9, abs=1e-9)
        elif not (values > 0).any():
            assert found.log.mean[index] == pytest.approx(-np.log1p(-values).mean(), rel=1e-9, abs=1e-9)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6), st.integers(-1, 10))
def test_search_within_equals_searchsorted(stretches: list[list[int]], limit: int) -> None:
    parts = [sorted(stretch) for stretch in stretches]
    value = np.array([number for part in parts for number in part], np.int64)
    end = np.cumsum([len(part) for part in parts])
    begin = end - [len(part) for part in parts]
    found = search_within(value, begin, end, np.full(len(parts), limit))
    expected = [b + np.searchsorted(part, limit, side="right") for b, part in zip(begin, parts, strict=True)]
    assert found.tolist() == expected


def dataset(rows: list[Row], codes: list[dict[str, Any]] | None = None) -> Path:
    folder = Path(tempfile.mkdtemp())
    (folder / "data").mkdir()
    (folder / "metadata").mkdir()
    start = datetime(2020, 1, 1)
    frame = pl.DataFrame(
        [(s, None if h is None else start + timedelta(hours=h), c, v) for s, h, c, v in rows],
        schema={"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32},
        orient="row",
    )
    write.write_events(frame.sort("subject_id", "time", maintain_order=True), folder / "data" / "0.parquet")
    if codes:
        columns: dict[str, Any] = {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)}
        write.write_codes(pl.DataFrame(codes, schema=columns), folder / schema.CODES_FILE)
    return folder


def fitted(folder: Path, config: Preprocess, subjects: int) -> tuple[Preprocessor, pl.DataFrame, pl.DataFrame]:
    labels = pl.DataFrame(
        {"subject_id": range(subjects), "prediction_time": [datetime(2021, 1, 1)] * subjects},
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
    )
    splits = labels.select("subject_id", pl.lit("train").alias("split"))
    return fit_dataset(folder, labels, splits, config, SerialEngine()).preprocessor, labels, splits


def test_quantile_normaliser_agrees_with_scikit_learn() -> None:
    values = np.random.default_rng(0).lognormal(size=800).round(2)
    rows: list[Row] = [(i % 40, float(i // 40), "lab", float(value)) for i, value in enumerate(values)]
    preprocessor, _, _ = fitted(dataset(rows), CONFIG.model_copy(update={"normaliser": "quantile"}), 40)
    reference = QuantileTransformer(n_quantiles=65, subsample=None).fit(values.reshape(-1, 1))
    new = np.array([0.0, 0.3, 1.0, 1.01, 2.5, 99.0])
    ranks = reference.transform(new.reshape(-1, 1)).ravel()
    got = preprocessor.apply(np.zeros(len(new), np.int64), new).value
    np.testing.assert_allclose(got, (ranks - 0.5) * np.sqrt(12), atol=1e-5)
    assert Preprocessor.from_json(preprocessor.to_json()) == preprocessor


@pytest.mark.parametrize("kind", ["prefix", "parents"])
def test_rare_codes_fall_back_to_the_nearest_ancestor_that_enough_subjects_have(kind: str) -> None:
    rows: list[Row] = [(i, 1.0, "LAB//K", 4.0) for i in range(4)]
    rows += [(0, 2.0, "DX//I50//1", None), (1, 2.0, "DX//I50//2", None), (2, 2.0, "DX//J18//1", None)]
    rows += [(3, 2.0, "DX//A00//1", None), (3, 3.0, "RX//x", 1.0)]
    parents = {
        "DX//I50//1": ["DX//I50"],
        "DX//I50//2": ["DX//I50"],
        "DX//J18//1": ["DX//J18"],
        "DX//A00//1": ["DX//A00"],
    }
    parents |= {name: ["DX"] for name in ("DX//I50", "DX//J18", "DX//A00")} | {"DX": ["DX"]}  # a careless circle
    codes = [{"code": code, "description": "", "parent_codes": up} for code, up in sorted(parents.items())]
    folder = dataset(rows, codes if kind == "parents" else None)
    config = CONFIG.model_copy(update={"fallback": kind, "unknown": "code"})
    preprocessor, labels, splits = fitted(folder, config, 4)
    assert preprocessor.codes == ("DX", "DX//I50", "LAB//K", "UNKNOWN")
    assert [preprocessor.entries[0].subjects, preprocessor.entries[1].subjects] == [2, 2]
    names = [
        preprocessor.entries[preprocessor.find(code, False)[0]].code for code in ("DX//I50//1", "DX//J18//1", "RX//x")
    ]
    assert names == ["DX//I50", "DX", "UNKNOWN"]
    if kind == "prefix":
        # A code that train never showed goes the same way.
        assert preprocessor.entries[preprocessor.find("DX//I50//77//5", False)[0]].code == "DX//I50"
    target = Path(tempfile.mkdtemp())
    report, _ = build_store(
        folder, labels, splits, preprocessor, target, target.parent / f"{target.name}.w", SerialEngine()
    )
    store = open_store(target)
    by_code = {
        store.codes[code]: float(value) for code, value in zip(store.arrays.code, store.arrays.value, strict=True)
    }
    assert np.isnan(by_code["UNKNOWN"])  # the dose of another drug means nothing here
    assert set(report.filter(pl.col("code") == "RX//x")["entry"]) == {"UNKNOWN"}
    assert Preprocessor.from_json(preprocessor.to_json()) == preprocessor


def test_ancestors_end() -> None:
    assert list(Hierarchy("prefix").ancestors("a//b//c")) == ["a//b", "a"]
    assert list(Hierarchy("parents", {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ("a",)}).ancestors("a")) == list(
        "bcd"
    )
    assert list(Hierarchy("none").ancestors("a//b")) == []


def test_text_values_become_categories() -> None:
    folder = dataset([(i, 1.0, "LAB//K", 4.0) for i in range(3)])
    frame = pl.DataFrame(
        {
            "subject_id": [0, 0, 1, 1, 2],
            "time": [datetime(2020, 1, 1)] * 5,
            "code": ["culture"] * 5,
            "numeric_value": [None, 3.0, None, None, None],
            "text_value": ["POS", "POS", "POS", "NEG", None],
        },
        schema_overrides={"numeric_value": pl.Float32, "time": pl.Datetime("us")},
    )
    write.write_events(frame, folder / "data" / "0.parquet")
    config = CONFIG.model_copy(update={"text_values": "categories", "min_subjects": 1})
    preprocessor, _, _ = fitted(folder, config, 3)
    assert preprocessor.codes == ("culture", "culture//NEG", "culture//POS")
    assert [entry.events for entry in preprocessor.entries] == [2, 1, 2]
    assert fitted(folder, config.model_copy(update={"text_values": "drop"}), 3)[0].codes == ("culture",)
