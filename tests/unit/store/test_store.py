import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ehrseq.errors import EhrseqError
from ehrseq.store import Arrays, open_store, write_store
from ehrseq.store.format import pack_events
from ehrseq.store.writer import make_room


@pytest.fixture
def arrays() -> Arrays:
    return Arrays(
        subject_id=np.array([5, 6, 9]),
        begin=np.array([0, 2, 2]),
        end=np.array([2, 2, 3]),
        event=pack_events(np.array([1, 2, 3]), np.array([0, 1, 0], np.int32), np.array([0.5, np.nan, -1], np.float32)),
        timepoint=np.array([0, 1, 0], np.int32),
        static=np.eye(3, 2, dtype=np.float32),
        sample_subject=np.array([0, 1, 2]),
        sample_time=np.array([2, 2, 9]),
        sample_begin=np.array([0, 2, 2]),
        sample_end=np.array([2, 2, 3]),
        sample_label=np.array([[1], [0], [np.nan]], np.float32),
        sample_auxiliary=np.array([[2, 5], [np.nan, 1], [3, 4]], np.float32),
        sample_split=np.array([0, 2, -1], np.int8),
    )


def test_round_trip(arrays: Arrays, tmp_path: Path) -> None:
    write_store(tmp_path, arrays, ["a", "b"], ["s", "t"], [True, False], [3, 2])
    store = open_store(tmp_path)
    for item in fields(Arrays):
        assert getattr(store.arrays, item.name).tobytes() == getattr(arrays, item.name).tobytes(), item.name
    assert (store.numeric, store.subjects) == ((True, False), (3, 2))
    assert (store.codes, store.statics) == (("a", "b"), ("s", "t"))
    assert store.samples("held_out").tolist() == [1]
    assert store.subjects_of(np.array([2, 0])).tolist() == [9, 5]


def test_damage_is_named(arrays: Arrays, tmp_path: Path) -> None:
    write_store(tmp_path, arrays, ["a", "b"], ["s", "t"], [True, False], [3, 2])
    value = tmp_path / "timepoint.npy"
    whole = value.read_bytes()
    value.write_bytes(whole[:-4])
    with pytest.raises(EhrseqError, match=r"timepoint\.npy cannot be opened.*prepare again"):
        open_store(tmp_path)
    np.save(value, np.zeros(3))
    with pytest.raises(EhrseqError, match=r"timepoint\.npy holds float64\(3,\), expected <i4\(3,\)"):
        open_store(tmp_path)
    value.unlink()
    with pytest.raises(EhrseqError, match=r"timepoint\.npy cannot be opened"):
        open_store(tmp_path)
    value.write_bytes(whole)
    (tmp_path / "meta.json").write_text('{"codes": [')
    with pytest.raises(EhrseqError, match=r"meta\.json is not valid JSON"):
        open_store(tmp_path)


def test_an_empty_store_opens(arrays: Arrays, tmp_path: Path) -> None:
    empty = Arrays(**{item.name: getattr(arrays, item.name)[:0] for item in fields(Arrays)})
    write_store(tmp_path, empty, ["a"], [], [True], [0])
    assert open_store(tmp_path).arrays.time.shape == (0,)


def test_room_is_made_once_and_no_file_stays_open(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        assert [make_room(tmp_path, events) for events in (3, 3, 4)] == [False, True, False]
