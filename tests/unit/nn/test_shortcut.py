import math

import pytest
import torch
from torch import nn

from ehrseq.errors import ConfigError
from ehrseq.nn import SummaryShortcut

B, T, F, S = 4, 6, 3, 2


def test_summary_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    shortcut = SummaryShortcut(F, S, outputs=2, hidden_size=5).double()
    values = torch.randn(B, T, F, dtype=torch.float64)
    observed = (torch.rand(B, T, F) < 0.5).double()
    statics = torch.randn(B, S, dtype=torch.float64)
    lengths = torch.tensor([6, 1, 4, 2])
    first, last = shortcut.layers[1], shortcut.layers[4]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    got = shortcut(values, observed, statics, lengths)
    for row, length in enumerate(lengths.tolist()):
        columns = [values[row, :length, f].tolist() for f in range(F)]
        summary = [sum(column) / length for column in columns]
        summary += [column[-1] for column in columns]
        summary += [max(column) for column in columns] + [min(column) for column in columns]
        summary += [math.log1p(observed[row, :length, f].sum().item()) / 2 for f in range(F)]
        summary += statics[row].tolist()
        hidden = torch.relu(first.weight @ torch.tensor(summary, dtype=torch.float64) + first.bias)
        assert got[row].tolist() == pytest.approx((last.weight @ hidden).tolist(), abs=1e-12)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(1)
    shortcut = SummaryShortcut(F, S)
    values, observed, statics = torch.randn(B, T, F), torch.ones(B, T, F), torch.randn(B, S)
    lengths = torch.tensor([3, 1, 2, 3])
    expected = shortcut(values[:, :3], observed[:, :3], statics, lengths)
    values[:, 3:] = 1e6
    torch.testing.assert_close(shortcut(values, observed, statics, lengths), expected)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_size is 0"):
        SummaryShortcut(F, S, hidden_size=0)
