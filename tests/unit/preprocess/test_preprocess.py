"""Preprocessing on a small dataset written by hand, and on real stays."""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Preprocess
from ehrseq.errors import DataError
from ehrseq.meds import schema, write
from ehrseq.preprocess import Preprocessor, build_store, fit_dataset
from ehrseq.store import Arrays, open_store
from ehrseq.tasks import encode
from ehrseq.workflows.engine import SerialEngine

START = datetime(2020, 1, 1)
CUT = START + timedelta(hours=10)
CONFIG = load_settings(["preprocess.min_subjects=2", "preprocess.log=none", "preprocess.clip=2.0"]).preprocess
Row = tuple[int, float | None, str, float | None]

EVENTS: list[Row] = [
    (1, None, "AGE", 50.0),
    (1, 1, "temp", 36.0),
    (1, 2, "temp", 98.6),  # Fahrenheit
    (1, 3, "rare", 1.0),
    (2, None, "AGE", 70.0),
    (2, None, "SEX//F", None),
    (2, 1, "temp", 38.0),
    (2, 2, "temp", 0.0),  # impossible
    (2, 10, "drug", None),  # at prediction_time: known
    (2, 10.001, "temp", 39.0),  # after it: never seen
    (3, None, "AGE", 60.0),
    (3, None, "SEX//F", None),
    (3, 5, "drug", None),
    (3, 6, "unknown", 3.0),
    (4, 1, "temp", 41.0),
    (5, 2, "temp", 30.0),
]
SPLITS = pl.DataFrame({"subject_id": [1, 2, 3, 4, 5], "split": ["train", "train", "train", "tuning", "held_out"]})
LABELS = pl.DataFrame(
    {"subject_id": [1, 2, 3, 4, 5], "prediction_time": [CUT] * 5, "boolean_value": [True, False, True, False, True]},
    schema_overrides={"prediction_time": pl.Datetime("us")},
)


def dataset(folder: Path, events: list[Row]) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    rows = [(s, None if h is None else START + timedelta(hours=h), c, v) for s, h, c, v in events]
    columns: dict[str, Any] = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    write.write_events(pl.DataFrame(rows, schema=columns, orient="row"), folder / "data" / "0.parquet")
    repair = {"low": 77.0, "high": 113.0, "scale": 5 / 9, "offset": -160 / 9}
    codes = [{"code": "temp", "description": "", "unit": "C", "low": 25.0, "high": 45.0, "repairs": [repair]}]
    write.write_codes(pl.DataFrame(codes, schema_overrides=schema.CODE_COLUMNS), folder / "metadata" / "codes.parquet")
    return folder


def fit(folder: Path, labels: pl.DataFrame, splits: pl.DataFrame, config: Preprocess) -> Preprocessor:
    return fit_dataset(folder, labels, splits, config, SerialEngine()).preprocessor


def tensorise(
    folder: Path, labels: pl.DataFrame, splits: pl.DataFrame, preprocessor: Preprocessor
) -> tuple[Arrays, pl.DataFrame]:
    target = Path(tempfile.mkdtemp(dir=folder.parent))
    outcomes = encode(labels, load_settings().task.target, "made").value
    report, _ = build_store(
        folder, labels, splits, preprocessor, target, folder.parent / "work", SerialEngine(), outcomes=outcomes
    )
    return open_store(target).arrays, report


def events_of(arrays: Arrays) -> list[tuple[int, int, int, float]]:
    """(subject, time, code, value) of every event, whatever room lies between."""
    rows = []
    for subject, begin, end in zip(arrays.subject_id, arrays.begin, arrays.end, strict=True):
        rows += [(int(subject), *event.tolist()) for event in arrays.event[begin:end]]
    return rows


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[Path, Preprocessor]:
    folder = dataset(tmp_path / "d", EVENTS)
    return folder, fit(folder, LABELS, SPLITS, CONFIG)


def test_vocabulary_and_normaliser(fitted: tuple[Path, Preprocessor]) -> None:
    _, preprocessor = fitted
    assert preprocessor.codes == ("drug", "temp")
    assert preprocessor.static_features == ("AGE", "AGE (value)", "SEX//F")
    temp = preprocessor.entries[1]
    clean = np.array([36.0, 37.0, 38.0])  # 98.6 F mended, 0 dropped, what came later not seen
    assert (temp.center, temp.scale) == pytest.approx((clean.mean(), clean.std()))
    age = preprocessor.entries[2]
    assert (age.center, age.scale) == pytest.approx((60.0, np.std([50, 60, 70])))
    assert Preprocessor.from_json(preprocessor.to_json()) == preprocessor


def test_only_train_is_looked_at(fitted: tuple[Path, Preprocessor], tmp_path: Path) -> None:
    _, preprocessor = fitted
    changed = [(s, h, c, v if s < 4 or v is None else v + 99) for s, h, c, v in EVENTS]
    changed += [(5, 3, "drug", 5.0), (5, 4, "rare", 1.0), (5, 4, "rare", 1.0)]
    assert fit(dataset(tmp_path / "other", changed), LABELS, SPLITS, CONFIG) == preprocessor


def test_what_comes_after_prediction_changes_nothing(fitted: tuple[Path, Preprocessor], tmp_path: Path) -> None:
    folder, preprocessor = fitted
    later = sorted([*EVENTS, (1, 11.0, "temp", 44.0), (3, 12.0, "rare", 2.0)], key=lambda row: (row[0], row[1] or -1))
    other = dataset(tmp_path / "other", later)
    assert fit(other, LABELS, SPLITS, CONFIG) == preprocessor
    one, two = (tensorise(path, LABELS, SPLITS, preprocessor)[0] for path in (folder, other))
    assert str(events_of(one)) == str(events_of(two))  # as text: NaN is not equal to itself
    for name in ("subject_id", "static", "sample_subject", "sample_time", "sample_label", "sample_split"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_arrays_and_report(fitted: tuple[Path, Preprocessor]) -> None:
    folder, preprocessor = fitted
    arrays, report = tensorise(folder, LABELS, SPLITS, preprocessor)
    assert arrays.subject_id.tolist() == [1, 2, 3, 4, 5]
    assert (arrays.end - arrays.begin).tolist() == [2, 2, 1, 1, 1]
    kept = np.concatenate([np.arange(begin, end) for begin, end in zip(arrays.begin, arrays.end, strict=True)])
    spread = np.std([36, 37, 38])
    expected = [-1 / spread, 0, 1 / spread, np.nan, np.nan, 2.0, -2.0]  # the last two are clipped
    np.testing.assert_allclose(arrays.value[kept], np.array(expected, np.float64), atol=1e-5)
    assert arrays.code[kept].tolist() == [1, 1, 1, 0, 0, 1, 1]
    assert arrays.static[:, 0].tolist() == [1, 1, 1, 0, 0]
    assert arrays.static[:, 2].tolist() == [0, 1, 1, 0, 0]
    assert arrays.sample_end.tolist() == arrays.end.tolist()
    assert arrays.sample_split.tolist() == [0, 0, 0, 1, 2]
    assert arrays.sample_label[:, 0].tolist() == [1, 0, 1, 0, 1]
    counts = {row["code"]: row for row in report.to_dicts()}
    temp = counts["temp"]
    assert [temp[name] for name in ("events", "repaired", "out_of_limits", "clipped")] == [6, 1, 1, 2]
    assert counts["rare"]["entry"] is None
    assert counts["unknown"]["entry"] is None


def test_robust_normaliser_and_switches(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", EVENTS)
    config = CONFIG.model_copy(update={"normaliser": "robust", "limits": False, "repairs": False})
    temp = fit(folder, LABELS, SPLITS, config).entries[1]
    raw = np.array([36.0, 98.6, 38.0, 0.0])
    low, middle, high = np.quantile(raw.astype(np.float32), [0.25, 0.5, 0.75])
    assert (temp.center, temp.scale) == pytest.approx((middle, (high - low) / 1.3489795), rel=1e-6)


def test_skewed_values_are_normalised_on_the_log_scale(tmp_path: Path) -> None:
    values = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 90.0]
    events: list[Row] = [(1 + i % 3, float(i // 3), "lab", value) for i, value in enumerate(values)]
    folder = dataset(tmp_path / "d", sorted(events, key=lambda row: row[0]))
    entry = fit(folder, LABELS, SPLITS, CONFIG.model_copy(update={"log": "auto"})).entries[0]
    assert entry.log
    assert entry.center == pytest.approx(np.log1p(values).mean())
    assert not fit(folder, LABELS, SPLITS, CONFIG).entries[0].log


def test_codes_too_rare_for_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no code with a time is seen in 4 or more of the 3 train subjects"):
        fit(dataset(tmp_path / "d", EVENTS), LABELS, SPLITS, CONFIG.model_copy(update={"min_subjects": 4}))


def test_subject_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "d", EVENTS)
    (folder / "data" / "1.parquet").write_bytes((folder / "data" / "0.parquet").read_bytes())
    with pytest.raises(DataError, match=r"subject 1 is in two files, .*0\.parquet and .*1\.parquet"):
        tensorise(folder, LABELS, SPLITS, fit(folder, LABELS, SPLITS, CONFIG))


def test_defaults_fit_real_stays_within_limits(test_data: Path, tmp_path: Path) -> None:
    from ehrseq.workflows import prepare

    archive = test_data / "physionet2012" / "set-a.tar.gz"
    settings = load_settings(["source=physionet2012", f"source.path={archive}", f"paths.data={tmp_path / 'data'}"])
    prepared = prepare.run(settings)
    store = prepared.open()
    assert len(store.codes) == 37
    assert np.nanmax(np.abs(store.arrays.value)) <= 5
    report = prepared.report()
    assert report["events"].sum() + 4000 + 2223 == 1_757_980
    # The same again: the same bytes.
    again = prepare.run(
        settings.model_copy(update={"paths": settings.paths.model_copy(update={"data": str(tmp_path / "b")})})
    )
    for file in sorted(prepared.store.iterdir()):
        assert file.read_bytes() == (again.store / file.name).read_bytes(), file.name
