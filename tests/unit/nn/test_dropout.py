import pytest
import torch

from ehrseq.nn.dropout import Dropout
from ehrseq.nn.kernels import can_read


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


@pytest.mark.skipif(not can_read(torch.zeros(1, 1, 1), torch.zeros(64, 16)), reason="nothing was compiled here")
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_or_not_it_is_the_same_to_the_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(37, 5, 511)[:, :, :-2].transpose(0, 1)  # more than a thread's worth, and not in order
    x[0, 0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    weight, before = torch.randn(x.shape), torch.get_num_threads()
    results = []
    torch.set_num_threads(threads)
    try:
        for compiled in (True, False):
            if not compiled:
                monkeypatch.setattr("ehrseq.nn.dropout.drop", lambda *_: None)
            own = x.clone().requires_grad_()
            torch.manual_seed(3)
            dropped = Dropout(0.4)(own)
            results.append([dropped, *torch.autograd.grad((dropped * weight).nansum(), [own])])
    finally:
        torch.set_num_threads(before)
    for found, expected in zip(*results, strict=True):
        assert found.shape == expected.shape
        assert torch.equal(found.contiguous().view(torch.int32), expected.contiguous().view(torch.int32))


def test_other_numbers_than_float32_are_dropped_by_torch() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.5)(torch.ones(100, 10, dtype=torch.float64))
    assert dropped.dtype == torch.float64
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
