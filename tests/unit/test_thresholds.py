"""Thresholds are where an outcome jumps."""

import numpy as np

from ehrseq.baselines import find_thresholds


def numbers(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Three columns, and an outcome that jumps at 0.3 of the first, and at -1 of the last where that is so."""
    matrix = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)
    outcome = 1.0 * (matrix[:, 0] > 0.3) + 3.0 * ((matrix[:, 0] > 0.3) & (matrix[:, 2] > -1.0))
    return matrix, outcome.astype(np.float32)


def test_jumps_are_found() -> None:
    matrix, outcome = numbers()
    column, threshold = find_thresholds(matrix, outcome, 4, seed=1)
    assert set(column.tolist()) == {0, 2}
    # Bins hold sixteen rows or so, and neighbours of a jump gain by what the rows between them say.
    np.testing.assert_allclose(threshold, np.where(column == 0, 0.3, -1.0), atol=0.05)


def test_more_are_in_order_and_the_same_with_any_number_of_threads() -> None:
    matrix, outcome = numbers()
    column, threshold = find_thresholds(matrix, outcome, 50, seed=1, threads=1)
    assert len(set(zip(column.tolist(), threshold.tolist(), strict=True))) == 50
    assert np.lexsort((threshold, column)).tolist() == list(range(50))
    again = find_thresholds(matrix, outcome, 50, seed=1, threads=2)
    np.testing.assert_array_equal(again[0], column)
    np.testing.assert_array_equal(again[1], threshold)


def test_there_may_be_none() -> None:
    matrix, outcome = numbers(100)
    for rows in (100, 0):
        column, threshold = find_thresholds(matrix[:rows], np.zeros_like(outcome[:rows]), 5, seed=1)
        assert (column.shape, threshold.shape) == ((0,), (0,))
