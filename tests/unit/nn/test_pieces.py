from itertools import pairwise

import numpy as np
import pytest
import torch

from ehrseq.nn.pieces import KNOTS, pieces


def test_pieces_against_a_plain_loop() -> None:
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).reshape(-1, 1)
    got = pieces(x)
    for row, value in zip(got.tolist(), x[:, 0].tolist(), strict=True):
        expected = []
        for low, high in pairwise(KNOTS):
            expected.append(0.0 if value <= low else 1.0 if value >= high else (value - low) / (high - low))
        assert row == pytest.approx(expected, abs=1e-12)


def test_a_linear_layer_on_pieces_bends_at_every_knot() -> None:
    # A function that no line comes near: high at both ends, low in the middle.
    x = torch.linspace(-2, 2, 401, dtype=torch.float64).reshape(-1, 1)
    design = np.column_stack([pieces(x).numpy(), np.ones(len(x))])
    bent = np.abs(x[:, 0].numpy())
    fitted = design @ np.linalg.lstsq(design, bent, rcond=None)[0]
    line = np.column_stack([x.numpy(), np.ones(len(x))])
    straight = line @ np.linalg.lstsq(line, bent, rcond=None)[0]
    assert np.abs(fitted - bent).max() < 0.4 + 1e-9  # the knots at -0.4 and 0.4 span the tip
    assert np.mean((fitted - bent) ** 2) < 0.1 * np.mean((straight - bent) ** 2)
