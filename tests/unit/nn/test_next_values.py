import pytest
import torch

from ehrseq.errors import ConfigError
from ehrseq.nn import NextValues

B, T, F, H = 3, 5, 4, 6


def test_loss_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    net = NextValues(F, H, weight=0.7).double()
    hidden, values = torch.randn(B, T, H).double(), 3 * torch.randn(B, T, F).double()
    observed = (torch.rand(B, T, F) < 0.4).double()
    total, count = 0.0, 0
    for b in range(B):
        for t in range(1, T):
            forecast = net.linear.weight @ hidden[b, t - 1] + net.linear.bias
            for f in range(F):
                if observed[b, t, f]:
                    error = abs((forecast[f] - values[b, t, f]).item())
                    total += error**2 / 2 if error < 1 else error - 0.5
                    count += 1
    assert net(hidden, values, observed).item() == pytest.approx(0.7 * total / count, abs=1e-12)


def test_nothing_to_forecast_costs_nothing() -> None:
    net = NextValues(F, H)
    assert net(torch.randn(B, 1, H), torch.randn(B, 1, F), torch.ones(B, 1, F)).item() == 0
    assert net(torch.randn(B, T, H), torch.randn(B, T, F), torch.zeros(B, T, F)).item() == 0


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="weight is 0"):
        NextValues(F, H, weight=0)
