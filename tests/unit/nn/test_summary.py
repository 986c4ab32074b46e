import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ehrseq.errors import ConfigError
from ehrseq.nn import SummaryNetwork

B, T, F, S = 4, 6, 3, 2


def bent(value: float | None, knots: list[float]) -> list[float]:
    """Pieces; none where two knots are one, or the figure means nothing."""
    if value is None:
        return [0.0] * (len(knots) - 1)
    edges = pairwise(knots)
    return [min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0 for low, high in edges]


def scaled(hours: float) -> float:
    return math.log1p(min(hours, 720)) / math.log1p(24)


def figures_of(values: list[float], observed: list[float], windows: list[int]) -> list[float | None]:
    """What one feature did, from the definition; None where it means nothing."""
    seen = [value for value, there in zip(values, observed, strict=True) if there]
    figures: list[float | None] = []
    for window in (len(values), *windows):
        recent = [value for value, there in zip(values[-window:], observed[-window:], strict=True) if there]
        figures += [math.log1p(len(recent)), sum(recent) / len(recent), recent[-1]] if recent else [None] * 3
    if not seen:
        return figures + [None] * 6
    mean = sum(seen) / len(seen)
    variance = sum((value - mean) ** 2 for value in seen) / len(seen)
    figures += [max(seen), min(seen), seen[0], seen[-1] - seen[0], math.sqrt(variance + 0.01)]
    figures.append(scaled(3 * (len(values) - 1 - max(step for step, there in enumerate(observed) if there))))
    return figures


def summary_of(batch: dict[str, torch.Tensor], row: int, length: int, windows: list[int]) -> list[float | None]:
    """All figures of one history: figure by figure, those of all features beside each other."""
    table = []
    for f in range(F):
        columns = [batch[name][row, :length, f].tolist() for name in ("values", "observed")]
        table.append(figures_of(columns[0], columns[1], windows))
    figures = [table[f][k] for k in range(9 + 3 * len(windows)) for f in range(F)]
    total = batch["observed"][row, :length].sum().item()
    figures.append(math.log1p(total) if total else None)
    figures.append(scaled(3 * (length - 1)))
    return figures + batch["statics"][row].tolist()


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
        "hours_before": torch.arange(T - 1, -1, -1, dtype=torch.float64).expand(B, T) * 3,
        "statics": torch.randn(B, S, generator=generator, dtype=torch.float64),
        "lengths": torch.tensor([6, 1, 4, 2]),
    }


def fitted(windows: list[int], outputs: int = 2) -> SummaryNetwork:
    torch.manual_seed(0)
    net = SummaryNetwork(F, S, outputs=outputs, hidden_size=5, members=3, windows=windows, bins=4).double().eval()
    net.fit([inputs()])
    return net


def test_members_against_a_plain_loop() -> None:
    windows = [2, 3]
    net = fitted(windows)
    net.bias.data.uniform_()
    batch = inputs()
    got = net(**batch)
    assert got.shape == (B, 3, 2)
    for row, length in enumerate(batch["lengths"].tolist()):
        figures = summary_of(batch, row, length, windows)
        summary = [
            piece for figure, knots in zip(figures, net.knots.tolist(), strict=True) for piece in bent(figure, knots)
        ]
        for window in (T, *windows):
            recent = batch["observed"][row, max(length - window, 0) : length]
            summary += (recent.sum(0) > 0).double().tolist()
        summary += batch["statics"][row].tolist()
        shared = torch.relu(net.first.weight @ torch.tensor(summary, dtype=torch.float64) + net.first.bias)
        for member in range(3):
            own = torch.relu(net.second.weight @ (shared * net.factors[member]) + net.second.bias)
            assert got[row, member].tolist() == pytest.approx((own @ net.last[member] + net.bias).tolist(), abs=1e-10)


def test_knots_are_quantiles_of_what_means_something() -> None:
    windows = [2, 3]
    net, batch = fitted(windows), inputs()
    table = [summary_of(batch, row, length, windows) for row, length in enumerate(batch["lengths"].tolist())]
    for column, knots in enumerate(net.knots.tolist()):
        known = [figure for figure in (line[column] for line in table) if figure is not None]
        expected = np.quantile(known, np.linspace(0, 1, 5)) if known else np.zeros(5)
        np.testing.assert_allclose(knots, expected, rtol=0, atol=1e-6)


def test_at_steps_knots_are_those_of_the_histories_that_end_there() -> None:
    net, other, batch = fitted([2]), fitted([2]), inputs()
    other.fit(batch | {"lengths": torch.full((B,), step)} for step in range(1, T + 1))
    whole = batch | {"lengths": torch.full((B,), T)}
    net.fit([whole], steps=True)
    torch.testing.assert_close(net.knots, other.knots)


def test_padding_changes_nothing() -> None:
    net = fitted([6, 12, 24], outputs=1)
    batch = inputs() | {"lengths": torch.tensor([3, 1, 2, 3])}
    cut = {name: part[:, :3] if part.shape[1:2] == (T,) else part for name, part in batch.items()}
    batch["values"][:, 3:] = 1e6
    torch.testing.assert_close(net(**batch), net(**cut), rtol=0, atol=1e-12)


def test_a_step_is_what_the_history_that_ends_there_is() -> None:
    net = fitted([6, 12, 24])
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


def test_what_is_there_in_part_counts_in_part() -> None:
    net = fitted([2, 3])
    batch = inputs() | {"lengths": torch.full((B,), T)}
    nothing = net._read(
        net._at_end(**batch | {"values": batch["values"] * 0, "observed": batch["observed"] * 0}), batch["statics"]
    )
    assert torch.isfinite(nothing).all()
    whole = net._at_end(**batch)
    for share in (0.001, 0.3):
        part = net._at_end(**batch | {name: batch[name] * share for name in ("values", "observed")})
        torch.testing.assert_close(part.seen, whole.seen * share)
        known = whole.there[:, : F * (9 + 6)] > 0
        torch.testing.assert_close(part.there[:, : F * 15], whole.there[:, : F * 15] * share)
        torch.testing.assert_close(part.value[:, : F * 15][known], whole.value[:, : F * 15][known], rtol=0, atol=1e-9)
