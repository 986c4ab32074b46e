"""From normalised values back to those of the record."""

import numpy as np
import pytest

from ehrseq.preprocess import Preprocessor
from ehrseq.preprocess.fitted import CodeEntry

RANKED = (1.0, 2.0, 2.0, 2.0, 5.0, 11.0)
ENTRIES = (
    CodeEntry("plain", static=False, numeric=True, center=70.0, scale=12.5),
    CodeEntry("skewed", static=False, numeric=True, log=True, center=1.3, scale=0.4),
    CodeEntry("ranked", static=False, numeric=True, quantiles=RANKED),
    CodeEntry("as it is", static=False, numeric=True),
)


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        (0, [-3.0, 0.0, 70.0, 400.0]),
        (1, [0.0, 0.2, 7.0, 5000.0]),
        # Ties, knots, and what lies between them.
        (2, [1.0, 1.25, 2.0, 3.5, 5.0, 8.0, 11.0]),
        (3, [-1.5, 0.0, 2.5]),
    ],
)
def test_restore_undoes_apply(entry: int, values: list[float]) -> None:
    preprocessor = Preprocessor(ENTRIES, clip=None)
    which, raw = np.full(len(values), entry), np.array(values)
    normalised = preprocessor.apply(which, raw).value.astype(np.float64)
    np.testing.assert_allclose(preprocessor.restore(which, normalised), raw, rtol=1e-5, atol=1e-5)


def test_codes_are_restored_side_by_side_and_in_order() -> None:
    preprocessor = Preprocessor(ENTRIES, clip=None)
    generator = np.random.default_rng(0)
    which, raw = generator.integers(0, len(ENTRIES), 500), generator.uniform(1, 11, 500)
    normalised = preprocessor.apply(which, raw).value.astype(np.float64)
    np.testing.assert_allclose(preprocessor.restore(which, normalised), raw, rtol=1e-5)
    higher = preprocessor.restore(which, normalised + 0.1)
    assert (higher >= preprocessor.restore(which, normalised)).all()


def test_what_was_clipped_comes_back_as_the_bound() -> None:
    preprocessor = Preprocessor(ENTRIES, clip=2.0)
    normalised = preprocessor.apply(np.array([0]), np.array([400.0])).value.astype(np.float64)
    assert preprocessor.restore(np.array([0]), normalised) == pytest.approx([95.0])
