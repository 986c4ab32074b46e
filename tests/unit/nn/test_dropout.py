import pytest
import torch

from ehrseq.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.9])
def test_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(999, 201)  # no multiple of eight
    dropped = Dropout(p)(x)
    kept = dropped != 0
    # Three standard errors, and the rounding to 1/256.
    error = 3 * (p * (1 - p) / x.numel()) ** 0.5 + 1 / 512
    assert abs(1 - kept.float().mean() - p) < error
    torch.testing.assert_close(dropped[kept].unique(), torch.tensor([256 / (256 - round(p * 256))]))
    assert abs(dropped.mean() - 1) < 2 * error / (1 - p)


def test_numbers_are_dropped_one_by_one() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(4000, 64)) != 0).float()
    correlation = torch.corrcoef(kept.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_gradient_reaches_what_was_kept_and_a_seed_repeats() -> None:
    x = torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(1)
    first = Dropout(0.3)(x)
    first.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, first)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.3)(x), first)


def test_nothing_happens_in_evaluation_or_at_zero() -> None:
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
