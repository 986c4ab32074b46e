import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from ehrseq.errors import ConfigError
from ehrseq.nn import SummaryNetwork
from ehrseq.nn.pieces import HOUR_KNOTS, KNOTS

B, T, F, S = 4, 6, 3, 2
AMOUNTS = (0.0, 0.35, 0.7, 1.0, 1.4, 1.9)


def bent(value: float, knots: tuple[float, ...]) -> list[float]:
    edges = pairwise(knots)
    return [min(max((value - low) / (high - low), 0.0), 1.0) for low, high in edges]


def figures_of(values: list[float], observed: list[float], hours: float, windows: list[int]) -> tuple[list[float], ...]:
    """What one feature did: figures, amounts and whether it was ever seen, from the definition."""
    seen = [value for value, there in zip(values, observed, strict=True) if there]
    mean = sum(seen) / len(seen) if seen else 0.0
    variance = sum((value - mean) ** 2 for value in seen) / len(seen) if seen else 0.0
    figures = [sum(values) / len(values), values[-1], max(seen, default=0), min(seen, default=0), mean]
    figures += [seen[0], values[-1] - seen[0]] if seen else [0.0, 0.0]
    amounts = [math.log1p(len(seen)) / 2, math.sqrt(variance + 0.01) if seen else 0.0]
    amounts.append(math.log1p(min(hours, 720)) / math.log1p(24))
    for window in windows:
        figures.append(sum(values[-window:]) / len(values[-window:]))
        amounts.append(math.log1p(sum(observed[-window:])) / 2)
    for window in windows:  # read with `standard` alone
        inside = [value for value, there in zip(values[-window:], observed[-window:], strict=True) if there]
        figures.append(sum(inside) / len(inside) if inside else 0.0)
    return figures, amounts, [float(bool(seen))]


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    observed = (torch.rand(B, T, F, generator=generator) < 0.5).double()
    observed[0, :, 1] = 0  # never seen
    raw = torch.randn(B, T, F, generator=generator, dtype=torch.float64)
    values = torch.zeros(B, T, F, dtype=torch.float64)
    last = torch.zeros(B, F, dtype=torch.float64)
    for step in range(T):
        last = torch.where(observed[:, step] > 0, raw[:, step], last)
        values[:, step] = last
    return {
        "values": values,
        "observed": observed,
        "hours_since": torch.rand(B, T, F, generator=generator, dtype=torch.float64) * 9,
        "hours_before": torch.arange(T - 1, -1, -1, dtype=torch.float64).expand(B, T) * 3,
        "statics": torch.randn(B, S, generator=generator, dtype=torch.float64),
        "lengths": torch.tensor([6, 1, 4, 2]),
    }


@pytest.mark.parametrize(("hour_pieces", "standard"), [(False, False), (True, False), (True, True)])
def test_members_against_a_plain_loop(hour_pieces: bool, standard: bool) -> None:
    torch.manual_seed(0)
    windows = [2, 3]
    options: dict[str, Any] = {"windows": windows, "hour_pieces": hour_pieces, "standard": standard}
    net = SummaryNetwork(F, S, outputs=2, hidden_size=5, members=3, **options).double().eval()
    net.bias.data.uniform_()
    batch = inputs()
    if standard:
        net.mean.normal_()
        net.spread.uniform_(0.1, 2.0)
    got = net(**batch)
    assert got.shape == (B, 3, 2)
    for row, length in enumerate(batch["lengths"].tolist()):
        table = []
        for f in range(F):
            columns = [batch[name][row, :length, f].tolist() for name in ("values", "observed")]
            table.append(figures_of(columns[0], columns[1], batch["hours_since"][row, length - 1, f].item(), windows))
        # Figure by figure, all features of one beside each other; the pieces of a number stand together.
        figures = [table[f][0][k] for k in range(7 + len(windows) * (1 + standard)) for f in range(F)]
        amounts = [table[f][1][k] for k in range(3 + len(windows)) for f in range(F)]
        statics = batch["statics"][row].tolist()
        if standard:
            known = zip(figures + amounts, net.mean.tolist(), net.spread.tolist(), strict=True)
            numbers = [(number - mean) / spread for number, mean, spread in known]
            summary = [piece for number in numbers for piece in bent(number, KNOTS)]
            summary += [min(max(number, -5.0), 5.0) for number in numbers]
        else:
            summary = [piece for figure in figures for piece in bent(figure, KNOTS)]
            summary += [piece for amount in amounts for piece in bent(amount, AMOUNTS)]
        hours = 3.0 * (length - 1)
        scaled = math.log1p(hours) / math.log1p(24)
        summary += bent(hours, HOUR_KNOTS) if hour_pieces else bent(scaled, AMOUNTS)
        summary += [table[f][2][0] for f in range(F)]
        summary += [piece for static in statics for piece in bent(static, KNOTS)] + statics
        shared = torch.relu(net.first.weight @ torch.tensor(summary, dtype=torch.float64) + net.first.bias)
        for member in range(3):
            own = torch.relu(net.second.weight @ (shared * net.factors[member]) + net.second.bias)
            assert got[row, member].tolist() == pytest.approx((own @ net.last[member] + net.bias).tolist(), abs=1e-10)


@pytest.mark.parametrize("steps", [False, True])
def test_figures_are_standardised_by_all_that_is_gone_through(steps: bool) -> None:
    """What the first layer then reads of them has mean 0 and deviation 1, over steps or over histories."""
    net = SummaryNetwork(F, S, windows=[2], standard=True).double().eval()
    batch = inputs()
    parts = [{name: part[rows] for name, part in batch.items()} for rows in (slice(0, 1), slice(1, B))]
    net.fit(parts, steps)
    read: list[torch.Tensor] = []
    net.input_dropout.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    found = net.steps(**batch) if steps else net(**batch)
    numbers = read[0][..., len(net.mean) * (len(KNOTS) - 1) :][..., : len(net.mean)]
    if steps:
        numbers = numbers[torch.arange(T) < batch["lengths"][:, None]]
    assert len(numbers) == (int(batch["lengths"].sum()) if steps else B)
    varied = net.spread > 0.01
    torch.testing.assert_close(numbers.mean(0), torch.zeros_like(net.mean), rtol=0, atol=1e-9)
    deviation = numbers.std(0, correction=0)[varied]
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=0.1)
    assert varied.sum() > len(varied) / 2
    # Nothing to go through, or no standardisation: nothing changes.
    known = net.mean.clone()
    net.fit([], steps)
    assert torch.equal(net.mean, known)
    assert not list(SummaryNetwork(F, S).buffers())
    assert found.isfinite().all()


def test_padding_changes_nothing() -> None:
    torch.manual_seed(1)
    net = SummaryNetwork(F, S).double().eval()
    batch = inputs() | {"lengths": torch.tensor([3, 1, 2, 3])}
    cut = {name: part[:, :3] if part.shape[1:2] == (T,) else part for name, part in batch.items()}
    for name in ("values", "hours_since"):
        batch[name][:, 3:] = 1e6
    torch.testing.assert_close(net(**batch), net(**cut), rtol=0, atol=1e-12)


def test_a_step_is_what_the_history_that_ends_there_is() -> None:
    torch.manual_seed(2)
    net = SummaryNetwork(F, S, outputs=2).double().eval()
    batch = inputs()
    at_steps = net.steps(**batch)
    for step in range(T):
        ended = net(**(batch | {"lengths": torch.full((B,), step + 1)}))
        torch.testing.assert_close(at_steps[:, step], ended, rtol=0, atol=1e-12)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="members is 0"):
        SummaryNetwork(F, S, members=0)
    with pytest.raises(ConfigError, match="windows is 0"):
        SummaryNetwork(F, S, windows=[6, 0])
