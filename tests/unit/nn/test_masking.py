import pytest
import torch
from torch import Tensor

from ehrseq.nn import last_state, masked_softmax, reverse_by_length, step_mask

LENGTHS = [5, 1, 3, 7, 7]


def test_step_mask_marks_the_first_steps_of_each_history() -> None:
    mask = step_mask(torch.tensor(LENGTHS), 7)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[step < length for step in range(7)] for length in LENGTHS]


def test_masked_softmax_equals_a_softmax_over_the_real_steps_alone() -> None:
    torch.manual_seed(0)
    scores = torch.randn(5, 7, dtype=torch.float64) * 10
    weights = masked_softmax(scores, step_mask(torch.tensor(LENGTHS), 7), dim=1)
    for row, length in enumerate(LENGTHS):
        assert torch.allclose(weights[row, :length], torch.softmax(scores[row, :length], 0), rtol=0, atol=1e-15)
        assert weights[row, length:].tolist() == [0.0] * (7 - length)


def test_masked_softmax_works_along_another_dimension() -> None:
    torch.manual_seed(0)
    scores, mask = torch.randn(4, 6), step_mask(torch.tensor([2, 4, 1, 3]), 6)
    assert torch.allclose(
        masked_softmax(scores.T, mask.T, dim=0), masked_softmax(scores, mask, dim=1).T, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_long_histories_sum_to_one_in_every_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([5000, 4000, 1])
    scores = (torch.randn(3, 5000) * 4).to(dtype)
    weights = masked_softmax(scores, step_mask(lengths, 5000), dim=1)
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(1), torch.ones(3), rtol=0, atol=1e-5)
    assert weights[1, 4000:].count_nonzero() == 0
    assert weights[2].tolist()[:2] == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_padding_scores_cannot_win_even_where_real_ones_are_the_lowest_of_their_type(dtype: torch.dtype) -> None:
    lowest, highest = torch.finfo(dtype).min, torch.finfo(dtype).max
    scores = torch.tensor([[lowest / 2, lowest / 2, highest]], dtype=dtype)
    assert masked_softmax(scores, torch.tensor([[True, True, False]]), dim=1).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_padding_scores_hold_does_not_reach_the_gradient(poison: float) -> None:
    scores = torch.tensor([[1.0, 2.0, poison], [poison, poison, poison]], requires_grad=True)
    weights = masked_softmax(scores, step_mask(torch.tensor([2, 0]), 3), dim=1)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):  # raises on a NaN on the way, too
        (gradient,) = torch.autograd.grad(weights[:, 0].sum(), scores)
    assert weights[1].tolist() == [0.0, 0.0, 0.0]
    first = torch.softmax(torch.tensor([1.0, 2.0]), 0)
    slope = float(first[0] * first[1])
    assert torch.allclose(gradient, torch.tensor([[slope, -slope, 0.0], [0.0, 0.0, 0.0]]))


def test_gradients_of_masked_softmax_are_those_of_its_formula() -> None:
    torch.manual_seed(0)
    mask = step_mask(torch.tensor([3, 1, 4]), 4)
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: masked_softmax(x, mask, dim=1), (scores,))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 3, 2)])
def test_reversal_turns_real_steps_around_and_leaves_padding(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    reverse = reverse_by_length(x, torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        assert torch.equal(reverse[row, :length], x[row, :length].flip(0))
        assert torch.equal(reverse[row, length:], x[row, length:])


def test_reversal_is_its_own_inverse_also_without_real_steps_and_on_strided_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3).transpose(0, 1)
    lengths = torch.tensor([0, 1, 7, 2, 6])
    assert not torch.equal(reverse_by_length(x, lengths), x)
    assert torch.equal(reverse_by_length(reverse_by_length(x, lengths), lengths), x)


def test_gradients_of_the_reversal_are_those_of_its_formula() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3, 1, 4])
    assert torch.autograd.gradcheck(lambda x: reverse_by_length(x, lengths), (x,))
    assert torch.autograd.gradgradcheck(lambda x: reverse_by_length(x, lengths).square(), (x,))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_state_reads_each_direction_where_it_ends(bidirectional: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 7, 4)
    state: Tensor = last_state(hidden, torch.tensor(LENGTHS), bidirectional)
    for row, length in enumerate(LENGTHS):
        backward_end = 0 if bidirectional else length - 1
        assert torch.equal(state[row], torch.cat([hidden[row, length - 1, :2], hidden[row, backward_end, 2:]]))
