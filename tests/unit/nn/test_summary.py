import math
from itertools import pairwise
from statistics import linear_regression
from typing import NamedTuple, Self

import pytest
import torch

from ehrseq.errors import ConfigError
from ehrseq.nn import SummaryNetwork
from ehrseq.nn.pieces import KNOTS

B, T, F, S = 4, 6, 3, 2
AMOUNTS = (0.0, 0.35, 0.7, 1.0, 1.4, 1.9)


def bent(value: float, knots: tuple[float, ...]) -> list[float]:
    edges = pairwise(knots)
    return [min(max((value - low) / (high - low), 0.0), 1.0) for low, high in edges]


class Feature(NamedTuple):
    """What one feature did, from the definition."""

    figures: list[float]
    amounts: list[float]
    seen: float
    more: list[float]  # read with thresholds alone

    @classmethod
    def of(
        cls, values: list[float], observed: list[float], times: list[float], since: float, windows: list[int]
    ) -> Self:
        seen = [value for value, there in zip(values, observed, strict=True) if there]
        mean = sum(seen) / len(seen) if seen else 0.0
        variance = sum((value - mean) ** 2 for value in seen) / len(seen) if seen else 0.0
        figures = [sum(values) / len(values), values[-1], max(seen, default=0), min(seen, default=0), mean]
        figures += [seen[0], values[-1] - seen[0]] if seen else [0.0, 0.0]
        amounts = [math.log1p(len(seen)) / 2, math.sqrt(variance + 0.01) if seen else 0.0]
        amounts.append(math.log1p(min(since, 720)) / math.log1p(24))
        means, lasts = [], []
        for window in windows:
            figures.append(sum(values[-window:]) / len(values[-window:]))
            amounts.append(math.log1p(sum(observed[-window:])) / 2)
            inside = [value for value, there in zip(values[-window:], observed[-window:], strict=True) if there]
            means.append(sum(inside) / len(inside) if inside else 0.0)
            lasts.append(inside[-1] if inside else 0.0)
        slope = 0.0
        if len(seen) > 1:
            when = [time for time, there in zip(times, observed, strict=True) if there]
            slope = linear_regression(when, seen).slope
        return cls(figures, amounts, float(bool(seen)), [*means, *lasts, slope])


def made(thresholds: int) -> SummaryNetwork:
    torch.manual_seed(1)
    net = SummaryNetwork(F, S, outputs=2, windows=[2, 3], thresholds=thresholds).double().eval()
    if thresholds:
        net.place(torch.randint(net.numbers, (thresholds,)), torch.randn(thresholds))
    return net


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


@pytest.mark.parametrize("thresholds", [0, 7])
def test_members_against_a_plain_loop(thresholds: int) -> None:
    torch.manual_seed(0)
    windows = [2, 3]
    net = SummaryNetwork(F, S, outputs=2, hidden_size=5, members=3, windows=windows, thresholds=thresholds)
    net = net.double().eval()
    net.bias.data.uniform_()
    batch = inputs()
    if thresholds:
        net.mean.normal_()
        net.spread.uniform_(0.1, 2.0)
        # One is of nothing; the others are among the numbers, of which one may be right at it.
        net.place(torch.randint(net.numbers, (thresholds - 1,)), torch.randn(thresholds - 1))
    got = net(**batch)
    assert got.shape == (B, 3, 2)
    for row, length in enumerate(batch["lengths"].tolist()):
        hours = [3.0 * step for step in range(length)]
        table = []
        for f in range(F):
            values, observed = (batch[name][row, :length, f].tolist() for name in ("values", "observed"))
            since = batch["hours_since"][row, length - 1, f].item()
            table.append(Feature.of(values, observed, hours, since, windows))
        # Figure by figure, all features of one beside each other; the pieces of a number stand together.
        figures = [feature.figures[k] for k in range(7 + len(windows)) for feature in table]
        amounts = [feature.amounts[k] for k in range(3 + len(windows)) for feature in table]
        seen, statics = [feature.seen for feature in table], batch["statics"][row].tolist()
        if thresholds:
            more = [feature.more[k] for k in range(2 * len(windows) + 1) for feature in table]
            known = zip(
                [*figures, *more, *amounts, *seen, hours[-1], *statics],
                net.mean.tolist(),
                net.spread.tolist(),
                strict=True,
            )
            numbers = [(number - mean) / spread for number, mean, spread in known]
            summary = [min(max(number, -5.0), 5.0) for number in numbers]
            places = zip(net.column.tolist(), net.threshold.tolist(), strict=True)
            summary += [min(max((numbers[column] - at) / 0.02 + 0.5, 0.0), 1.0) for column, at in places]
        else:
            summary = [piece for figure in figures for piece in bent(figure, KNOTS)]
            summary += [piece for amount in amounts for piece in bent(amount, AMOUNTS)]
            summary += [*bent(math.log1p(hours[-1]) / math.log1p(24), AMOUNTS), *seen]
            summary += [piece for static in statics for piece in bent(static, KNOTS)] + statics
        shared = torch.relu(net.first.weight @ torch.tensor(summary, dtype=torch.float64) + net.first.bias)
        for member in range(3):
            own = torch.relu(net.second.weight @ (shared * net.factors[member]) + net.second.bias)
            assert got[row, member].tolist() == pytest.approx((own @ net.last[member] + net.bias).tolist(), abs=1e-10)


@pytest.mark.parametrize("steps", [False, True])
def test_numbers_are_standardised_by_all_that_is_gone_through(steps: bool) -> None:
    """Over steps or over histories, they have mean 0 and deviation 1."""
    net = SummaryNetwork(F, S, windows=[2], thresholds=3).double().eval()
    batch = inputs()
    parts = [{name: part[rows] for name, part in batch.items()} for rows in (slice(0, 1), slice(1, B))]
    net.fit(parts, steps)
    numbers = net.standardised(batch, steps)
    if steps:
        numbers = numbers[torch.arange(T) < batch["lengths"][:, None]]
    assert numbers.shape == (int(batch["lengths"].sum()) if steps else B, net.numbers)
    varied = net.spread > 0.01
    torch.testing.assert_close(numbers.mean(0), torch.zeros_like(net.mean), rtol=0, atol=1e-9)
    deviation = numbers.std(0, correction=0)[varied]
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=0.1)
    assert varied.sum() > len(varied) / 2
    # Nothing to go through, or no thresholds: nothing changes.
    known = net.mean.clone()
    net.fit([], steps)
    assert torch.equal(net.mean, known)
    assert not list(SummaryNetwork(F, S).buffers())


def test_thresholds_are_set_anew() -> None:
    net = SummaryNetwork(F, S, thresholds=3)
    assert (net.threshold > 1e5).all()
    net.place(torch.tensor([4, 5, 6]), torch.tensor([0.1, 0.2, 0.3]))
    net.place(torch.tensor([7]), torch.tensor([-1.0]))
    assert net.column.tolist() == [7, 0, 0]
    assert net.threshold[0] == -1.0
    assert (net.threshold[1:] > 1e5).all()


@pytest.mark.parametrize("thresholds", [0, 20])
def test_padding_changes_nothing(thresholds: int) -> None:
    net = made(thresholds)
    batch = inputs() | {"lengths": torch.tensor([3, 1, 2, 3])}
    cut = {name: part[:, :3] if part.shape[1:2] == (T,) else part for name, part in batch.items()}
    for name in ("values", "hours_since"):
        batch[name][:, 3:] = 1e6
    torch.testing.assert_close(net(**batch), net(**cut), rtol=0, atol=1e-12)


@pytest.mark.parametrize("thresholds", [0, 20])
def test_a_step_is_what_the_history_that_ends_there_is(thresholds: int) -> None:
    net = made(thresholds)
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
