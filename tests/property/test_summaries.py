"""Summaries of histories against plain Python, for random stores."""

from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.config.model import SummaryConfig
from ehrseq.data import summary
from ehrseq.data.summary import summarise
from ehrseq.store import Arrays, Store
from ehrseq.store.format import HOUR, pack_events

NAN = float("nan")
CONFIG = SummaryConfig(windows_hours=(2.0, 5.5), max_features=None)
Event = tuple[float, int, float]  # (hours before the prediction, code, number)


def random_store(seed: int) -> Store:
    """A few subjects with none to many events, tied, at and after prediction_time, in room that belongs to nobody."""
    random = np.random.default_rng(seed)
    subjects = int(random.integers(1, 6))
    size = random.integers(0, 40, subjects) * (random.random(subjects) > 0.2)
    begin = np.cumsum(size + random.integers(0, 3, subjects)) - size
    events = int(begin[-1] + size[-1])
    time = np.full(events, 7, np.int64)
    start = random.choice([0, 10**6]) * HOUR
    for first, count in zip(begin, size, strict=True):
        # Quarter hours make ties and exact window edges common.
        time[first : first + count] = start + np.sort(random.integers(0, 60, count)) * HOUR // 4
    number = random.choice([-1.5, 0.0, 2.25, 1e-3, NAN], events).astype(np.float32)
    subject = np.sort(random.integers(0, subjects, int(random.integers(1, 12))))
    cut = start + random.integers(0, 64, len(subject)) * HOUR // 4
    end = [
        first + int(np.searchsorted(time[first : first + size[who]], limit, side="right"))
        for who, first, limit in zip(subject, begin[subject], cut, strict=True)
    ]
    arrays = Arrays(
        subject_id=np.arange(subjects, dtype=np.int64) + 100,
        begin=begin,
        end=begin + size,
        event=pack_events(time, random.integers(0, 4, events).astype(np.int32), number),
        timepoint=np.zeros(events, np.int32),
        static=random.normal(size=(subjects, 2)).astype(np.float32),
        sample_subject=subject,
        sample_time=cut,
        sample_begin=begin[subject],
        sample_end=np.array(end, np.int64),
        sample_label=np.zeros(len(subject), np.float32),
        sample_auxiliary=np.zeros((len(subject), 0), np.float32),
        sample_split=np.zeros(len(subject), np.int8),
    )
    # The last code never carries a number; the third is on all subjects, the first on none.
    arrays.event["value"][arrays.code == 3] = NAN
    return Store(Path(), arrays, ("a", "b", "c", "d"), ("s", "t"), (True, True, True, False), (0, 2, 4, 3), {})


def history(store: Store, sample: int) -> list[Event]:
    """The events up to prediction_time, oldest first, from the definition alone."""
    arrays = store.arrays
    subject, cut = int(arrays.sample_subject[sample]), int(arrays.sample_time[sample])
    rows = range(int(arrays.begin[subject]), int(arrays.end[subject]))
    return [
        ((cut - int(arrays.time[row])) / HOUR, int(arrays.code[row]), float(arrays.value[row]))
        for row in rows
        if int(arrays.time[row]) <= cut
    ]


def slow_slope(numbers: list[Event]) -> float:
    """Least squares, from the definition."""
    x, y = [-age for age, _, _ in numbers], [value for _, _, value in numbers]
    if len(set(x)) < 2:
        return NAN
    middle, level = fmean(x), fmean(y)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def slow_summary(store: Store, sample: int, windows: tuple[float, ...]) -> dict[str, float]:
    """One history, column by column."""
    events = history(store, sample)
    row: dict[str, float] = {}
    for code, name in enumerate(store.codes):
        mine = [event for event in events if event[1] == code]
        numbers = [event for event in mine if not np.isnan(event[2])]
        values = [value for _, _, value in numbers]
        row[f"{name} (count)"] = len(mine)
        row[f"{name} (hours since)"] = mine[-1][0] if mine else NAN
        for hours in windows:
            recent = [event for event in mine if event[0] <= hours]
            row[f"{name} (count, last {hours:g} h)"] = len(recent)
            if store.numeric[code]:
                known = [value for _, _, value in recent if not np.isnan(value)]
                row[f"{name} (mean, last {hours:g} h)"] = fmean(known) if known else NAN
                row[f"{name} (last, last {hours:g} h)"] = known[-1] if known else NAN
        if store.numeric[code]:
            row[f"{name} (mean)"] = fmean(values) if values else NAN
            row[f"{name} (std)"] = pstdev(values) if values else NAN
            row[f"{name} (min)"] = min(values, default=NAN)
            row[f"{name} (max)"] = max(values, default=NAN)
            row[f"{name} (first)"] = values[0] if values else NAN
            row[f"{name} (last)"] = values[-1] if values else NAN
            row[f"{name} (slope an hour)"] = slow_slope(numbers)
    row["hours since the first event"] = events[0][0] if events else NAN
    row["events"] = len(events)
    statics = store.arrays.static[store.arrays.sample_subject[sample]]
    return row | dict(zip(store.statics, statics.tolist(), strict=True))


def everything(store: Store) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(len(store.arrays.sample_time))


@pytest.mark.parametrize("chunk", [1, 50, 1 << 21])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_summaries_equal_the_slow_reference(chunk: int, seed: int) -> None:
    store = random_store(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "_CHUNK", chunk)
        matrix, names = summarise(store, everything(store), CONFIG)
    assert matrix.dtype == np.float32
    assert len(set(names)) == len(names) == matrix.shape[1]
    for sample, row in enumerate(matrix):
        expected = slow_summary(store, sample, CONFIG.windows_hours)
        assert set(expected) == set(names)
        wanted = [expected[name] for name in names]
        np.testing.assert_allclose(row, np.array(wanted, np.float32), rtol=1e-5, atol=1e-5, err_msg=str(names))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_company_changes_nothing(seed: int) -> None:
    store = random_store(seed)
    together, _ = summarise(store, everything(store), CONFIG)
    for sample in everything(store):
        alone, _ = summarise(store, np.array([sample]), CONFIG)
        np.testing.assert_array_equal(alone[0], together[sample])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_comes_after_prediction_time_changes_nothing(seed: int) -> None:
    store = random_store(seed)
    arrays = store.arrays
    before, _ = summarise(store, everything(store), CONFIG)
    for sample in everything(store):
        later = np.ones(len(arrays.time), bool)
        later[arrays.sample_begin[sample] : arrays.sample_end[sample]] = False
        kept = arrays.event.copy()
        arrays.event["value"][later] = 99.0
        arrays.event["code"][later] = 1
        after, _ = summarise(store, np.array([sample]), CONFIG)
        np.testing.assert_array_equal(after[0], before[sample])
        arrays.event[:] = kept


def test_features_can_be_limited_and_samples_be_none() -> None:
    store = random_store(5)
    whole, names = summarise(store, everything(store), CONFIG)
    few, chosen = summarise(store, everything(store), CONFIG.model_copy(update={"max_features": 2}))
    # c and d are on the most train subjects.
    assert {name[0] for name in chosen if "(" in name} == {"c", "d"}
    for column, name in enumerate(chosen):
        np.testing.assert_array_equal(few[:, column], whole[:, names.index(name)])
    nothing, same = summarise(store, np.empty(0, np.int64), CONFIG)
    assert nothing.shape == (0, len(names))
    assert same == names
