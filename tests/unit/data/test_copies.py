"""Changed copies of `train`: what is exchanged, left out and added, and that nothing else gets in."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ehrseq.config.model import Copies
from ehrseq.data.copies import add_copies
from ehrseq.store import Arrays, Store
from ehrseq.store.format import pack_events

HOURS, CODES, SUBJECTS = 12, 3, 40


@pytest.fixture
def store() -> Store:
    """Subjects of whom each number tells who, what and when; each has two samples, some no event, half are `train`."""
    rng = np.random.default_rng(0)
    count = rng.integers(0, 20, SUBJECTS)
    count[:4] = 0
    end = np.cumsum(count) + 2 * np.arange(SUBJECTS)  # room between subjects
    begin = end - count
    event = pack_events(np.zeros(end[-1], np.int64), np.zeros(end[-1], np.int32), np.zeros(end[-1], np.float32))
    timepoint = np.zeros(end[-1], np.int32)
    for who in range(SUBJECTS):
        own = event[begin[who] : end[who]]
        own["time"] = 100 * who + np.sort(rng.integers(0, HOURS, count[who]))
        own["code"] = rng.integers(0, CODES, count[who])
        own["value"] = own["time"] + own["code"] / 10
        timepoint[begin[who] : end[who]] = np.unique(own["time"], return_inverse=True)[1]
    subject = np.repeat(np.arange(SUBJECTS), 2)
    cut = 100 * subject + np.tile([HOURS // 2, HOURS - 1], SUBJECTS)
    until = [
        begin[who] + int((event["time"][begin[who] : end[who]] <= when).sum())
        for who, when in zip(subject, cut, strict=True)
    ]
    arrays = Arrays(
        subject_id=1000 + np.arange(SUBJECTS),
        begin=begin,
        end=end,
        event=event,
        timepoint=timepoint,
        static=np.arange(2 * SUBJECTS, dtype=np.float32).reshape(SUBJECTS, 2),
        sample_subject=subject,
        sample_time=cut,
        sample_begin=begin[subject],
        sample_end=np.array(until),
        sample_label=np.ones((len(subject), 1), np.float32),
        sample_auxiliary=np.ones((len(subject), 2), np.float32),
        sample_split=(subject % 2).astype(np.int8),
    )
    return Store(Path(), arrays, ("a", "b", "c"), ("s", "t"), (True,) * CODES, (9,) * CODES, {})


def copies(
    number: int = 1, exchanged: float = 0.0, left_out: float = 0.0, noise: float = 0.0, partners: int = 1
) -> Copies:
    return Copies(number=number, partners=partners, exchanged=exchanged, left_out=left_out, noise=noise)


def events_of(arrays: Arrays, row: int) -> list[tuple[int, int, float]]:
    own = arrays.event[arrays.begin[row] : arrays.end[row]]
    return [(int(time), int(code), round(float(value), 3)) for time, code, value in own]


def test_what_is_not_changed_is_the_same_once_more(store: Store) -> None:
    given = store.arrays
    arrays = add_copies(store, copies(2), 1).arrays
    train, (size, kept) = store.samples("train"), (len(given.sample_time), SUBJECTS // 2)
    for item in fields(Arrays):
        own = getattr(given, item.name)
        assert getattr(arrays, item.name)[: len(own)].tobytes() == own.tobytes(), item.name
    assert len(arrays.sample_time) == size + 2 * len(train)
    assert len(set(arrays.subject_id.tolist())) == len(arrays.subject_id) == SUBJECTS + 2 * kept
    for number in range(2):
        new = size + number * len(train) + np.arange(len(train))
        np.testing.assert_array_equal(arrays.sample_split[new], 0)
        assert np.isnan(arrays.sample_label[new]).all()
        assert np.isnan(arrays.sample_auxiliary[new]).all()
        np.testing.assert_array_equal(arrays.sample_time[new], given.sample_time[train])
        for sample, copy in zip(train, new, strict=True):
            one, other = (
                arrays.event[arrays.sample_begin[row] : arrays.sample_end[row]].tolist() for row in (sample, copy)
            )
            assert one == other
            before, after = given.sample_subject[sample], arrays.sample_subject[copy]
            assert events_of(arrays, after) == events_of(given, before)
            np.testing.assert_array_equal(arrays.static[after], given.static[before])
            np.testing.assert_array_equal(
                arrays.timepoint[arrays.begin[after] : arrays.end[after]],
                given.timepoint[given.begin[before] : given.end[before]],
            )


def test_no_copies_are_the_store_itself(store: Store) -> None:
    assert add_copies(store, copies(0, 0.5, 0.5, 1.0), 1) is store


def test_all_series_are_those_of_one_other_subject_of_train(store: Store) -> None:
    given = store.arrays
    arrays = add_copies(store, copies(1, exchanged=1.0), 1).arrays
    partners = []
    for place, row in enumerate(range(0, SUBJECTS, 2)):
        copy = SUBJECTS + place
        partner = int(arrays.static[copy, 0]) // 2
        np.testing.assert_array_equal(arrays.static[copy], given.static[partner])
        partners.append(partner)
        own, theirs = events_of(given, row), events_of(given, partner)
        expected = []
        if own and theirs:
            shift = own[0][0] - theirs[0][0]
            expected = [(t + shift, code, value) for t, code, value in theirs if t + shift <= own[-1][0]]
        assert sorted(events_of(arrays, copy)) == sorted(expected)
        assert [event[0] for event in events_of(arrays, copy)] == sorted(event[0] for event in expected)
    assert sorted(partners) == list(range(0, SUBJECTS, 2))  # nobody of `tuning`, and each once


def test_a_series_is_exchanged_whole(store: Store) -> None:
    arrays = add_copies(store, copies(1, exchanged=0.5), 1).arrays
    whole = add_copies(store, copies(1, exchanged=1.0), 1).arrays
    kinds = set()
    for place, row in enumerate(range(0, SUBJECTS, 2)):
        copy = SUBJECTS + place
        for code in range(CODES):
            own, theirs, found = (
                sorted(event for event in events_of(part, who) if event[1] == code)
                for part, who in ((store.arrays, row), (whole, copy), (arrays, copy))
            )
            assert found in (own, theirs)
            kinds.add((found == own, found == theirs))
    assert {(True, False), (False, True)} <= kinds


def test_several_partners_give_a_share_each(store: Store) -> None:
    arrays = add_copies(store, copies(50, exchanged=0.4, partners=4), 1).arrays
    row = np.arange(0, SUBJECTS, 2)
    whose = arrays.static[SUBJECTS:].reshape(50, len(row), 2) // 2
    assert set(whose.ravel()) <= set(row.tolist())
    # Who gives may have been given before, or be oneself.
    assert (whose != row[:, None]).mean() == pytest.approx(1 - 0.9**4, abs=0.04)
    assert (whose[..., 0] != whose[..., 1]).mean() > 0.3
    givers = set()
    for copy in range(SUBJECTS, len(arrays.begin)):
        givers.add(len({int((value - code / 10) // 100) for _, code, value in events_of(arrays, copy)}))
    assert max(givers) == CODES


def test_a_share_is_left_out_and_noise_is_added(store: Store) -> None:
    arrays = add_copies(store, copies(200, left_out=0.4, noise=0.25), 1).arrays
    rows = [row for row in range(0, SUBJECTS, 2) if events_of(store.arrays, row)]
    share, noise = [], []
    for place, row in enumerate(range(0, SUBJECTS, 2)):
        if row not in rows:
            continue
        own = {event[:2] for event in events_of(store.arrays, row)}
        for number in range(200):
            found = events_of(arrays, SUBJECTS + number * SUBJECTS // 2 + place)
            assert {event[:2] for event in found} <= own
            share.append(1 - len(found) / len(events_of(store.arrays, row)))
            noise += [value - (time + code / 10) for time, code, value in found]
    assert np.mean(share) == pytest.approx(0.2, abs=0.01)
    assert np.std(noise) == pytest.approx(0.25, abs=0.01)
    assert abs(np.mean(noise)) < 0.01


def test_a_history_ends_at_its_prediction(store: Store) -> None:
    arrays = add_copies(store, copies(3, 0.5, 0.5, 0.1), 1).arrays
    for sample in range(len(store.arrays.sample_time), len(arrays.sample_time)):
        subject = arrays.sample_subject[sample]
        begin, end = arrays.sample_begin[sample], arrays.sample_end[sample]
        time = arrays.time[arrays.begin[subject] : arrays.end[subject]]
        assert begin == arrays.begin[subject]
        assert end - begin == (time <= arrays.sample_time[sample]).sum()
        assert (np.diff(time) >= 0).all()


def test_a_seed_gives_the_same_copies(store: Store) -> None:
    one, same, other = (add_copies(store, copies(2, 0.5, 0.5, 0.1), seed).arrays.event.tobytes() for seed in (1, 1, 2))
    assert one == same != other
