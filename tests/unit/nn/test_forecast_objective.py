"""The Gaussian objective of forecasts against torch's own distribution."""

import pytest
import torch
from torch.distributions import Normal

from ehrseq.config.load import load_settings
from ehrseq.config.targets import read_target
from ehrseq.errors import ConfigError
from ehrseq.nn import ForecastObjective, make_objective

LOSS = load_settings().loss


def objective(features: int = 3, horizon: int = 2) -> ForecastObjective:
    made = make_objective(read_target({"kind": "forecast", "horizon": horizon}), LOSS, features)
    assert isinstance(made, ForecastObjective)
    return made


def test_loss_is_the_mean_negative_log_likelihood_of_what_is_known() -> None:
    torch.manual_seed(0)
    output, outcome = torch.randn(50, 12) * 2, torch.randn(50, 6)
    outcome[torch.rand(50, 6) < 0.4] = torch.nan
    made = objective()
    mean, deviation = made.distribution(output)
    torch.testing.assert_close(mean, output[:, :6])
    known = ~outcome.isnan()
    expected = -Normal(mean[known], deviation[known]).log_prob(outcome[known])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(made.loss(output, outcome), expected.mean())
    terms, counts = made.terms(output, outcome)
    assert (terms.shape, counts.tolist()) == ((1,), [int(known.sum())])
    torch.testing.assert_close(made.surprise(output, outcome)[known], expected)
    assert made.surprise(output, outcome)[~known].isnan().all()
    torch.testing.assert_close(made.predict(output), mean)


def test_unknown_values_touch_neither_loss_nor_gradient() -> None:
    output = torch.randn(4, 12, requires_grad=True)
    outcome = torch.full((4, 6), torch.nan)
    outcome[0, 0] = 0.5
    objective().loss(output, outcome).backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert (output.grad != 0).nonzero().tolist() == [[0, 0], [0, 6]]
    assert float(objective().loss(output.detach(), torch.full((4, 6), torch.nan))) == 0


def test_certainty_has_an_end() -> None:
    output = torch.cat([torch.zeros(2, 6), torch.tensor([[-1e4], [1e4]]).expand(2, 6)], dim=1)
    deviation = objective().distribution(output)[1]
    assert deviation.min() > 0.04
    assert deviation.max() < 21


def test_means_start_at_the_last_value_seen() -> None:
    values, output = torch.randn(2, 5, 3), torch.randn(2, 5, 12)
    moved = objective().at_steps(output, values=values)
    torch.testing.assert_close(moved[..., :3], output[..., :3] + values)
    torch.testing.assert_close(moved[..., 3:6], output[..., 3:6] + values)
    torch.testing.assert_close(moved[..., 6:], output[..., 6:])


def test_losses_for_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.focal is for binary"):
        make_objective(read_target({"kind": "forecast"}), LOSS.model_copy(update={"focal": 2.0}), 3)
