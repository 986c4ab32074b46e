"""Batches against a slow, obvious reference, for random datasets."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.config.representation import EventsConfig, GridConfig, RepresentationConfig, TimepointsConfig
from ehrseq.config.schema import Loader
from ehrseq.data import (
    EventBatch,
    GridBatch,
    HistoryDataset,
    OrderedBatches,
    SequenceBatch,
    ShuffledBatches,
    TimepointBatch,
    represent,
)
from ehrseq.data.sampler import padding_share
from ehrseq.store import Arrays, Store
from ehrseq.store.format import pack_events

HOUR = 3_600_000_000
CODES = ("a", "b", "c")
Batch = TypeVar("Batch", bound=SequenceBatch)


@st.composite
def stores(draw: st.DrawFn) -> Store:
    """A few subjects with none to many events, on bin edges, tied, at and after prediction_time."""
    subjects = draw(st.integers(1, 5))
    times, codes, values, points, begins, ends, samples = [], [], [], [], [], [], []
    for subject in range(subjects):
        # Quarter hours make ties and exact bin edges common; odd microseconds make them rare.
        events = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 9)), max_size=25))
        stamps = sorted((quarter * HOUR // 4 + (odd == 0), code) for quarter, code, odd in events)
        # Room that belongs to nobody, filled with what must not be seen.
        gap = draw(st.integers(0, 2))
        times += [7] * gap
        codes += [1] * gap
        values += [99.0] * gap
        points += [5] * gap
        begins.append(len(times))
        different = sorted({stamp for stamp, _ in stamps})
        points += [different.index(stamp) for stamp, _ in stamps]
        times += [stamp for stamp, _ in stamps]
        codes += [code for _, code in stamps]
        values += [draw(st.sampled_from([-1.5, 0.0, 2.25, float("nan")])) for _ in stamps]
        ends.append(len(times))
        samples += [(subject, draw(st.integers(0, 44)) * HOUR // 4) for _ in range(draw(st.integers(1, 3)))]
    time = np.array(times, np.int64)
    begin = np.array([begins[subject] for subject, _ in samples], np.int64)
    end = [b + sum(t <= cut for t in times[b : ends[s]]) for b, (s, cut) in zip(begin, samples, strict=True)]
    arrays = Arrays(
        subject_id=np.arange(subjects, dtype=np.int64) + 100,
        begin=np.array(begins, np.int64),
        end=np.array(ends, np.int64),
        event=pack_events(time, np.array(codes, np.int32), np.array(values, np.float32)),
        timepoint=np.array(points, np.int32),
        static=np.arange(subjects * 2, dtype=np.float32).reshape(subjects, 2),
        sample_subject=np.array([subject for subject, _ in samples], np.int64),
        sample_time=np.array([cut for _, cut in samples], np.int64),
        sample_begin=begin,
        sample_end=np.array(end, np.int64),
        sample_label=np.arange(len(samples), dtype=np.float32)[:, None] % 2,
        sample_auxiliary=np.arange(2 * len(samples), dtype=np.float32).reshape(-1, 2),
        sample_split=np.zeros(len(samples), np.int8),
    )
    # The last code is one that carries no numbers; the second is the most frequent.
    return Store(Path(), arrays, CODES, ("s", "t"), (True, True, False), (2, 3, 2), {})


def known_events(store: Store, sample: int) -> list[tuple[int, int, float]]:
    """(age in microseconds, code, value) of a history, oldest first, from the definition alone."""
    arrays = store.arrays
    subject, cut = int(arrays.sample_subject[sample]), int(arrays.sample_time[sample])
    return [
        (cut - int(arrays.time[i]), int(arrays.code[i]), float(arrays.value[i]))
        for i in range(int(arrays.begin[subject]), int(arrays.end[subject]))
        if int(arrays.time[i]) <= cut
    ]


def slow_grid(store: Store, config: GridConfig, sample: int) -> dict[str, Any]:
    """One history, cell by cell."""
    width = round(config.bin_hours * HOUR)
    events = known_events(store, sample)
    oldest = max((age for age, _, _ in events), default=0)
    steps = 1
    while steps * width <= oldest:
        steps += 1
    steps = min(steps, config.max_steps)
    chosen = list(range(len(CODES))) if config.max_features is None else [1][: config.max_features]
    shape = (steps, len(chosen))
    values, observed, since = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for step in range(steps):
        youngest, eldest = (steps - 1 - step) * width, (steps - step) * width
        for column, code in enumerate(chosen):
            known = [event for event in events if event[1] == code and event[0] >= youngest]
            here = [event for event in known if event[0] < eldest]
            observed[step, column] = bool(here)
            if known:
                last = min(age for age, _, _ in known)
                since[step, column] = (last - youngest) / HOUR
                bins = [age // width for age, _, _ in known]
                # What came before the first kept step counts as one bin of its own.
                bins = [min(number, steps) for number in bins]
                latest = [event for event, number in zip(known, bins, strict=True) if number == min(bins)]
                without = 0.0 if store.numeric[code] else 1.0
                numbers = [without if np.isnan(value) else value for _, _, value in latest]
                values[step, column] = numbers[-1] if config.aggregate == "last" else np.mean(numbers)
            else:
                since[step, column] = (step + 1) * config.bin_hours
    return {"values": values, "observed": observed, "hours_since": since, "steps": steps}


grids = st.builds(
    GridConfig,
    name=st.just("grid"),
    bin_hours=st.sampled_from([0.5, 1.0, 2.0]),
    max_steps=st.sampled_from([1, 3, 96]),
    aggregate=st.sampled_from(["last", "mean"]),
    max_features=st.sampled_from([None, 1]),
)
events = st.builds(EventsConfig, name=st.just("events"), max_steps=st.sampled_from([1, 3, 96]))
timepoints = st.builds(TimepointsConfig, name=st.just("timepoints"), max_steps=st.sampled_from([1, 3, 96]))
representations = st.one_of(grids, events, timepoints)


def all_samples(store: Store) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(len(store.arrays.sample_time))


def cut_all(store: Store, config: RepresentationConfig, kind: type[Batch]) -> Batch:
    """All samples as one batch, row by row; statics, target and sample number are the subject's own."""
    batch = represent(store, config).cut(all_samples(store))
    assert isinstance(batch, kind)
    for row, subject in enumerate(store.arrays.sample_subject):
        assert batch.statics[row].tolist() == store.arrays.static[subject].tolist()
        assert batch.targets[row] == store.arrays.sample_label[row]
        assert batch.samples[row] == row
    return batch


@settings(max_examples=120, deadline=None)
@given(stores(), grids)
def test_grid_equals_the_slow_reference(store: Store, config: GridConfig) -> None:
    batch = cut_all(store, config, GridBatch)
    for row in range(len(batch)):
        expected = slow_grid(store, config, row)
        steps = expected["steps"]
        assert batch.lengths[row] == steps
        before = [(steps - 1 - step) * config.bin_hours for step in range(steps)]
        np.testing.assert_allclose(batch.hours_before[row, :steps].numpy(), before, atol=1e-5)
        assert not batch.hours_before[row, steps:].any()
        for name in ("values", "observed", "hours_since"):
            got = getattr(batch, name)[row].numpy()
            np.testing.assert_allclose(got[:steps], expected[name], atol=1e-5, err_msg=name)
            assert not got[steps:].any(), f"{name} has padding that is not 0"


@settings(max_examples=120, deadline=None)
@given(stores(), events)
def test_events_equal_the_slow_reference(store: Store, config: EventsConfig) -> None:
    batch = cut_all(store, config, EventBatch)
    for row in range(len(batch)):
        expected = known_events(store, row)[-config.max_steps :]
        assert batch.lengths[row] == max(len(expected), 1)
        got = zip(
            batch.hours_before[row].tolist(),
            batch.codes[row].tolist(),
            batch.values[row].tolist(),
            batch.has_value[row].tolist(),
            strict=True,
        )
        padding = [(0, 0, float("nan"))] * (batch.steps - len(expected))
        for (hours, code, value, has), (age, wanted, number) in zip(got, [*expected, *padding], strict=True):
            assert hours == pytest.approx(age / HOUR, abs=1e-5)
            assert (code, has) == (wanted, not np.isnan(number))
            assert value == (0 if np.isnan(number) else number)


@settings(max_examples=120, deadline=None)
@given(stores(), timepoints)
def test_timepoints_equal_the_slow_reference(store: Store, config: TimepointsConfig) -> None:
    batch = cut_all(store, config, TimepointBatch)
    first = [*batch.first_event.flatten().tolist(), len(batch.codes)]
    for row in range(len(batch)):
        history = known_events(store, row)
        ages = sorted({age for age, _, _ in history}, reverse=True)[-config.max_steps :]
        assert batch.lengths[row] == max(len(ages), 1)
        for step in range(batch.steps):
            part = slice(first[row * batch.steps + step], first[row * batch.steps + step + 1])
            wanted = [event for event in history if step < len(ages) and event[0] == ages[step]]
            assert batch.codes[part].tolist() == [code for _, code, _ in wanted]
            assert batch.has_value[part].tolist() == [not np.isnan(value) for _, _, value in wanted]
            assert batch.values[part].tolist() == [0 if np.isnan(value) else value for _, _, value in wanted]
            hours = ages[step] / HOUR if step < len(ages) else 0
            assert float(batch.hours_before[row, step]) == pytest.approx(hours, abs=1e-5)


@settings(max_examples=90, deadline=None)
@given(stores(), representations, st.integers(0, 2**32 - 1))
def test_what_comes_after_prediction_time_changes_no_byte(
    store: Store, config: RepresentationConfig, seed: int
) -> None:
    arrays = store.arrays
    random = np.random.default_rng(seed)
    for sample in range(len(arrays.sample_time)):
        later = np.ones(len(arrays.time), bool)
        later[arrays.sample_begin[sample] : arrays.sample_end[sample]] = False
        event, timepoint = arrays.event.copy(), arrays.timepoint.copy()
        event["code"][later] = random.integers(0, 3, later.sum())
        event["value"][later] = random.normal(size=later.sum())
        event["time"][later] += random.integers(0, 9 * HOUR, later.sum())
        timepoint[later] = random.integers(0, 9, later.sum())
        changed = replace(store, arrays=replace(arrays, event=event, timepoint=timepoint))
        one = np.array([sample])
        assert_equal(represent(store, config).cut(one), represent(changed, config).cut(one))


def assert_equal(left: SequenceBatch, right: SequenceBatch) -> None:
    for item in fields(left):
        assert torch.equal(getattr(left, item.name), getattr(right, item.name)), item.name


@settings(max_examples=40, deadline=None)
@given(stores(), st.one_of(grids, events), st.randoms(use_true_random=False))
def test_company_and_order_change_nothing_but_padding(store: Store, config: RepresentationConfig, random: Any) -> None:
    grid = represent(store, config)
    order = list(range(len(store.arrays.sample_time)))
    random.shuffle(order)
    together = grid.cut(np.array(order))
    for row, sample in enumerate(order):
        alone = grid.cut(np.array([sample]))
        assert_equal(alone, together.select(torch.tensor([row]), alone.steps))


@pytest.mark.parametrize("kind", ["shuffled", "ordered"])
@settings(max_examples=20, deadline=None)
@given(stores(), representations)
def test_cached_batches_are_the_same(
    kind: Literal["shuffled", "ordered"], store: Store, config: RepresentationConfig
) -> None:
    loader = Loader(batch_size=2, batch_tokens=None, max_padding=0.05, eval_batch_size=3, num_workers=0, cache_gib=1.0)
    kept, cut = (HistoryDataset(represent(store, config), all_samples(store), gib) for gib in (1.0, 0.0))
    pairs = (
        zip(kept.shuffled(loader, seed=3), cut.shuffled(loader, seed=3), strict=True)
        if kind == "shuffled"
        else zip(kept.ordered(loader), cut.ordered(loader), strict=True)
    )
    for left, right in pairs:
        assert_equal(left, right)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 17), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_sample_is_served_once_an_epoch(lengths: list[int], batch_size: int, seed: int) -> None:
    array = np.array(lengths)
    shuffled = ShuffledBatches(array, batch_size, seed)
    first = [batch.tolist() for batch in shuffled]
    assert sorted(position for batch in first for position in batch) == list(range(len(lengths)))
    assert len(first) == len(shuffled)
    assert first == [batch.tolist() for batch in shuffled]
    ordered = OrderedBatches(array, batch_size)
    served = [position for batch in ordered for position in batch.tolist()]
    assert sorted(served) == list(range(len(lengths)))
    assert [lengths[position] for position in served] == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=100), st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_few_long_histories_are_scored_at_once(lengths: list[int], batch_size: int) -> None:
    served = list(OrderedBatches(np.array(lengths), batch_size))
    assert sorted(position for batch in served for position in batch.tolist()) == list(range(len(lengths)))
    for batch in served:
        longest = max(lengths[position] for position in batch)
        assert len(batch) == 1 or (len(batch) <= batch_size and len(batch) * longest <= 8_192)


def test_later_epochs_pad_hardly_more_than_the_first() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 1, 5000).astype(np.int64) + 1
    for options in ({"max_padding": 0.05}, {"batch_tokens": 4000}, {"batch_tokens": 4000, "max_padding": 0.05}):
        sampler = ShuffledBatches(lengths, 64, 0, **options)
        count, shares = len(sampler), []
        for epoch in range(5):
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert len(batches) == len(sampler) == count
            shares.append(padding_share(lengths, batches))
        assert max(shares) < (0.052 if "max_padding" in options else 1.1 * shares[0])


def test_epochs_differ_and_seeds_differ() -> None:
    lengths = np.arange(1, 200)
    sampler = ShuffledBatches(lengths, 8, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append([batch.tolist() for batch in sampler])
    orders.append([batch.tolist() for batch in ShuffledBatches(lengths, 8, seed=1)])
    assert len({str(order) for order in orders}) == 4


@given(
    st.lists(st.integers(1, 50), min_size=8, max_size=300),
    st.integers(1, 17),
    st.sampled_from([None, 60, 500]),
    st.sampled_from([None, 0.05, 0.2]),
    st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_ranks_share_evenly_and_tokens_bound_batches(
    lengths: list[int], batch_size: int, tokens: int | None, padding: float | None, ranks: int
) -> None:
    array = np.array(lengths)
    samplers = [ShuffledBatches(array, batch_size, 0, tokens, padding, rank, ranks) for rank in range(ranks)]
    served = [[batch.tolist() for batch in sampler] for sampler in samplers]
    assert {len(batches) for batches in served} == {len(samplers[0])}
    assert sorted(position for batches in served for batch in batches for position in batch) == list(range(len(array)))
    for sampler in samplers:
        sampler.set_epoch(1)
    again = [batch.tolist() for sampler in samplers for batch in sampler]
    # A trainer counts the batches once: an epoch with more of them would lose some, one with fewer its validation.
    assert len(again) == sum(map(len, served))
    assert sorted(position for batch in again for position in batch) == list(range(len(array)))
    if padding is not None and ranks == 1:
        padded = sum(len(batch) * int(array[batch].max()) for batch in served[0])
        assert 1 - array.sum() / padded <= padding
        assert padding_share(array, [np.array(batch) for batch in served[0]]) == pytest.approx(1 - array.sum() / padded)
    if tokens is not None and ranks == 1:
        for batch in (batch for batches in served for batch in batches):
            assert len(batch) == 1 or len(batch) * array[batch].max() <= tokens
    shares = [[batch.tolist() for batch in OrderedBatches(array, batch_size, rank, ranks)] for rank in range(ranks)]
    assert len({len(batches) for batches in shares}) == 1
    assert sorted(position for batches in shares for batch in batches for position in batch) == list(range(len(array)))
