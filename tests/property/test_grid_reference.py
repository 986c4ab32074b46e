"""Batches against a slow, obvious reference, for random datasets."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.config.schema import Loader, Representation
from ehrseq.data import HistoryDataset, OrderedBatches, SequenceBatch, ShuffledBatches
from ehrseq.data.grid import Grid
from ehrseq.store import Arrays, Store

HOUR = 3_600_000_000
CODES = ("a", "b", "c")


@st.composite
def stores(draw: st.DrawFn) -> Store:
    """A few subjects with none to many events, on bin edges, tied, at and after prediction_time."""
    subjects = draw(st.integers(1, 5))
    times, codes, values, offset, samples = [], [], [], [0], []
    for subject in range(subjects):
        # Quarter hours make ties and exact bin edges common; odd microseconds make them rare.
        events = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(0, 9)), max_size=25))
        stamps = sorted((quarter * HOUR // 4 + (odd == 0), code) for quarter, code, odd in events)
        times += [stamp for stamp, _ in stamps]
        codes += [code for _, code in stamps]
        values += [draw(st.sampled_from([-1.5, 0.0, 2.25, float("nan")])) for _ in stamps]
        offset.append(len(times))
        samples += [(subject, draw(st.integers(0, 44)) * HOUR // 4) for _ in range(draw(st.integers(1, 3)))]
    time = np.array(times, np.int64)
    begin = np.array([offset[subject] for subject, _ in samples], np.int64)
    end = [b + sum(t <= cut for t in times[b : offset[s + 1]]) for b, (s, cut) in zip(begin, samples, strict=True)]
    arrays = Arrays(
        subject_id=np.arange(subjects, dtype=np.int64) + 100,
        offset=np.array(offset, np.int64),
        time=time,
        code=np.array(codes, np.int32),
        value=np.array(values, np.float32),
        static=np.arange(subjects * 2, dtype=np.float32).reshape(subjects, 2),
        sample_subject=np.array([subject for subject, _ in samples], np.int64),
        sample_time=np.array([cut for _, cut in samples], np.int64),
        sample_begin=begin,
        sample_end=np.array(end, np.int64),
        sample_label=np.arange(len(samples), dtype=np.float32) % 2,
        sample_split=np.zeros(len(samples), np.int8),
    )
    return Store(Path(), arrays, CODES, ("s", "t"), {})


def slow(store: Store, config: Representation, sample: int) -> dict[str, Any]:
    """One history, cell by cell, from the definition alone."""
    arrays = store.arrays
    subject, cut = int(arrays.sample_subject[sample]), int(arrays.sample_time[sample])
    width = round(config.bin_hours * HOUR)
    events = [
        (cut - int(arrays.time[i]), int(arrays.code[i]), float(arrays.value[i]))
        for i in range(int(arrays.offset[subject]), int(arrays.offset[subject + 1]))
        if int(arrays.time[i]) <= cut
    ]
    oldest = max((age for age, _, _ in events), default=0)
    steps = 1
    while steps * width < oldest:
        steps += 1
    steps = min(steps, config.max_steps)
    shape = (steps, len(CODES))
    values, observed, since = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for step in range(steps):
        youngest, eldest = (steps - 1 - step) * width, (steps - step) * width
        for code in range(len(CODES)):
            known = [event for event in events if event[1] == code and event[0] >= youngest]
            known = [event for event in known if event[0] > youngest or youngest == 0]
            here = [event for event in known if event[0] <= eldest]
            observed[step, code] = bool(here)
            if known:
                last = min(age for age, _, _ in known)
                since[step, code] = (last - youngest) / HOUR
                bins = [-(-age // width) - 1 if age else 0 for age, _, _ in known]
                # What came before the first kept step counts as one bin of its own.
                bins = [min(number, steps) for number in bins]
                latest = [event for event, number in zip(known, bins, strict=True) if number == min(bins)]
                numbers = [1.0 if np.isnan(value) else value for _, _, value in latest]
                values[step, code] = numbers[-1] if config.aggregate == "last" else np.mean(numbers)
            else:
                since[step, code] = (step + 1) * config.bin_hours
    return {"values": values, "observed": observed, "hours_since": since, "steps": steps}


representations = st.builds(
    Representation,
    name=st.just("grid"),
    bin_hours=st.sampled_from([0.5, 1.0, 2.0]),
    max_steps=st.sampled_from([1, 3, 96]),
    aggregate=st.sampled_from(["last", "mean"]),
)


@settings(max_examples=120, deadline=None)
@given(stores(), representations)
def test_batches_equal_the_slow_reference(store: Store, config: Representation) -> None:
    samples = np.arange(len(store.arrays.sample_time))
    batch = Grid(store, config).cut(samples)
    for row in samples:
        expected = slow(store, config, int(row))
        steps = expected["steps"]
        assert batch.lengths[row] == steps
        for name in ("values", "observed", "hours_since"):
            got = getattr(batch, name)[row].numpy()
            np.testing.assert_allclose(got[:steps], expected[name], atol=1e-5, err_msg=name)
            assert not got[steps:].any(), f"{name} has padding that is not 0"
        subject = store.arrays.sample_subject[row]
        assert batch.statics[row].tolist() == store.arrays.static[subject].tolist()
        assert batch.targets[row] == store.arrays.sample_label[row]
        assert batch.samples[row] == row


@settings(max_examples=60, deadline=None)
@given(stores(), representations, st.integers(0, 2**32 - 1))
def test_what_comes_after_prediction_time_changes_no_byte(store: Store, config: Representation, seed: int) -> None:
    arrays = store.arrays
    random = np.random.default_rng(seed)
    for sample in range(len(arrays.sample_time)):
        later = np.ones(len(arrays.time), bool)
        later[arrays.sample_begin[sample] : arrays.sample_end[sample]] = False
        code, value = arrays.code.copy(), arrays.value.copy()
        code[later] = random.integers(0, 3, later.sum())
        value[later] = random.normal(size=later.sum())
        changed = replace(store, arrays=replace(arrays, code=code, value=value))
        one = np.array([sample])
        assert_equal(Grid(store, config).cut(one), Grid(changed, config).cut(one))


def assert_equal(left: SequenceBatch, right: SequenceBatch) -> None:
    for item in fields(SequenceBatch):
        assert torch.equal(getattr(left, item.name), getattr(right, item.name)), item.name


@settings(max_examples=40, deadline=None)
@given(stores(), representations, st.randoms(use_true_random=False))
def test_company_and_order_change_nothing_but_padding(store: Store, config: Representation, random: Any) -> None:
    grid = Grid(store, config)
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
    kind: Literal["shuffled", "ordered"], store: Store, config: Representation
) -> None:
    loader = Loader(batch_size=2, eval_batch_size=3, num_workers=0, cache_gib=1.0)
    samples = np.arange(len(store.arrays.sample_time))
    kept, cut = (HistoryDataset(Grid(store, config), samples, gib) for gib in (1.0, 0.0))
    pairs = (
        zip(kept.shuffled(loader, 3), cut.shuffled(loader, 3), strict=True)
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


def test_epochs_differ_and_seeds_differ() -> None:
    lengths = np.arange(1, 200)
    sampler = ShuffledBatches(lengths, 8, seed=0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append([batch.tolist() for batch in sampler])
    orders.append([batch.tolist() for batch in ShuffledBatches(lengths, 8, seed=1)])
    assert len({str(order) for order in orders}) == 4
