"""A network on a summary of the history, beside the recurrent one."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ehrseq.nn.checks import check_count, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.embedding import scale_hours
from ehrseq.nn.masking import last_state, step_mask
from ehrseq.nn.pieces import pieces

_LEAST_COUNT = 1e-6  # of observations, where there are none
_LEAST_WEIGHT = _LEAST_COUNT**2
# Under the root, so that the deviation of equal values is not made of rounding errors.
_LEAST_VARIANCE = 0.01
_ROWS = 16_384  # summaries whose quantiles are taken, at most
_CELLS = 50_000_000  # figures in them, at most
_STEPS = 8  # of one history, where there is an output at every step


class _Summary(NamedTuple):
    """Some histories, or their steps, in figures.

    Attributes:
        value: (..., C).
        there: (..., C) 1 where the figure means something; between 0 and 1 where what it is made of fades.
        seen: (..., (1 + W) F) whether each feature was observed at all, and in each window; fades likewise.
    """

    value: Tensor
    there: Tensor
    seen: Tensor


class SummaryNetwork(nn.Module):
    """Several small networks on what each feature did over the whole history and over its last steps.

    With few histories a recurrent net spends them on finding means, extremes and last values again; this one is given
    them, bent at their quantiles in `train` (see `pieces`), and the recurrent net adds what order and timing say. The K
    members share their two layers and differ by learned factors on the units between them and by their output weights
    (TabM-mini of Gorishniy et al. 2025, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling").

    Of what was observed of each feature, in all and in the last w steps: how often, the mean and the last value; and
    the largest, smallest and first value, last less first, standard deviation, and the hours since. What was not
    observed has no pieces, and a flag says so, of the whole history and of each window. And the hours since the first
    step, how much was observed of all features together, and the statics.

    An explanation may ask for histories that are there in part: an observation of a share a, and a times its value. Its
    figures stay what they are and count by the share a, so that it runs through no bends on its way from nothing.

    Args:
        num_features: F, the number of features of the grid.
        num_statics: S, the number of static features.
        outputs: O, as many as the head has.
        hidden_size: Size of both hidden ReLU layers.
        members: K.
        windows: Numbers w of steps.
        bins: Pieces of each figure, whose knots `fit` takes from `train`.
        input_dropout: Dropout probability of the summary.
        dropout: Dropout probability of the hidden layers, each member's own.

    Raises:
        ConfigError: If an argument is out of range.
    """

    knots: Tensor
    reads = ("values", "observed", "hours_before", "statics", "lengths")

    def __init__(
        self,
        num_features: int,
        num_statics: int,
        outputs: int = 1,
        hidden_size: int = 64,
        members: int = 16,
        windows: Sequence[int] = (6, 12, 24),
        bins: int = 8,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("num_features", num_features)
        check_count("num_statics", num_statics, least=0)
        check_count("hidden_size", hidden_size)
        check_count("bins", bins)
        self.members = check_count("members", members)
        self.outputs = check_count("outputs", outputs)
        self.windows = tuple(check_count("windows", steps) for steps in windows)
        figures = num_features * (9 + 3 * len(self.windows)) + 2 + num_statics
        # In the unit of normalised values until they are fitted.
        self.register_buffer("knots", torch.linspace(-2, 2, bins + 1).repeat(figures, 1))
        size = figures * bins + num_features * (1 + len(self.windows)) + num_statics
        self.first = nn.Linear(size, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        # Signs at first: members that start alike stay alike.
        self.factors = nn.Parameter(torch.where(torch.rand(members, hidden_size) < 0.5, -1.0, 1.0))
        self.last = nn.Parameter(torch.randn(members, hidden_size, outputs) * 0.3 / hidden_size**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.dropout = Dropout(check_probability("dropout", dropout))

    def histories_to_fit(self, steps: bool) -> int:
        """How many histories `fit` wants, at most."""
        rows = max(min(_ROWS, _CELLS // len(self.knots)), 1)
        return max(rows // _STEPS, 1) if steps else rows

    @torch.no_grad()
    def fit(self, batches: Iterable[Mapping[str, Tensor]], steps: bool = False) -> None:
        """Take the knots: evenly spaced quantiles of each figure where it means something.

        Args:
            batches: What `forward` is called with, of some histories of `train`; without any the knots stay.
            steps: Whether the figures are those at steps of each history, see `steps`.
        """
        rows = []
        for inputs in batches:
            summary = self._at_steps(**inputs) if steps else self._at_end(**inputs)
            value = summary.value.masked_fill(summary.there == 0, torch.nan)
            if steps:
                value = value[_some_steps(inputs["lengths"], value.shape[1])]
            rows.append(value.float().cpu().numpy())
        if not rows:
            return
        shares = np.linspace(0, 1, self.knots.shape[1])
        with warnings.catch_warnings():
            # A figure that nobody has gets no pieces.
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            quantiles = np.nanquantile(np.concatenate(rows), shares, axis=0).T
        self.knots.copy_(torch.from_numpy(np.nan_to_num(quantiles)))

    def forward(
        self,
        values: Tensor,
        observed: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """What the members say of each history.

        Args:
            values: Normalised values with the gaps filled, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F).
            hours_before: Hours from each step to the prediction, (B, T).
            statics: Normalised static features, (B, S).
            lengths: Number of real steps of each history, (B,).

        Returns:
            (B, K, O).
        """
        return self._read(self._at_end(values, observed, hours_before, statics, lengths), statics)

    def steps(
        self,
        values: Tensor,
        observed: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """What the members say at each step, of what has come so far; the arguments of `forward`.

        Returns:
            (B, T, K, O); anything on padding.
        """
        summary = self._at_steps(values, observed, hours_before, statics, lengths)
        return self._read(summary, statics.unsqueeze(1).expand(-1, values.shape[1], -1))

    def _at_end(
        self,
        values: Tensor,
        observed: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,
    ) -> _Summary:
        """Of whole histories: figures (B, C)."""
        observed = observed.to(values.dtype)
        real = step_mask(lengths, values.shape[1])
        # Sums over all steps and over the last ones of each history, as products with their masks, (B, 1 + W, T).
        back = lengths[:, None] - torch.arange(values.shape[1], device=values.device)
        masks = torch.stack([real] + [real & (back <= window) for window in self.windows], dim=1).to(values.dtype)
        counted = observed * real.unsqueeze(-1)
        was = counted > 0
        # Values as they were measured, of which `values` holds as much as is there.
        whole = values / counted.masked_fill(~was, 1)
        weight = counted**2
        counts, weights = masks @ counted, masks @ weight
        starts, ends = _ends(was)
        hours = hours_before - last_state(hours_before.unsqueeze(-1), lengths)
        since = hours.unsqueeze(-1).expand_as(values).gather(1, ends)
        most = torch.finfo(values.dtype).max
        high, low = torch.where(was, whole, -most).amax(1), torch.where(was, whole, most).amin(1)
        means = masks @ (whole * weight) / weights.clamp(min=_LEAST_WEIGHT)
        squares = (whole**2 * weight).sum(1) / weights[:, 0].clamp(min=_LEAST_WEIGHT)
        return _gather(
            (whole.gather(1, ends).squeeze(1), high, low, whole.gather(1, starts).squeeze(1)),
            means.unbind(1),
            squares,
            counts.unbind(1),
            (weights / counts.clamp(min=_LEAST_COUNT)).unbind(1),
            since.squeeze(1),
            hours[:, :1],
            statics,
        )

    def _at_steps(
        self,
        values: Tensor,
        observed: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,  # noqa: ARG002
    ) -> _Summary:
        """At each step, of what has come so far: figures (B, T, C)."""
        observed = observed.to(values.dtype)
        seen_value = values * observed
        count, total = observed.cumsum(1), seen_value.cumsum(1)
        counts = [count, *(count - _earlier(count, window) for window in self.windows)]
        totals = [total, *(total - _earlier(total, window) for window in self.windows)]
        somes = [part.clamp(min=1) for part in counts]
        first = (seen_value * (count == 1)).cumsum(1)
        most = torch.finfo(values.dtype).max
        high = torch.where(observed > 0, values, -most).cummax(1).values
        low = torch.where(observed > 0, values, most).cummin(1).values
        hours = (hours_before[:, :1] - hours_before).unsqueeze(-1)
        when = torch.where(observed > 0, hours.to(values.dtype), 0.0).cummax(1).values
        return _gather(
            (values, high, low, first),
            [part / some for part, some in zip(totals, somes, strict=True)],
            (values * seen_value).cumsum(1) / somes[0],
            counts,
            [(part > 0).to(values.dtype) for part in counts],
            hours - when,
            hours,
            statics.unsqueeze(1).expand(-1, values.shape[1], -1),
        )

    def _read(self, summary: _Summary, statics: Tensor) -> Tensor:
        bent = pieces(summary.value, self.knots)
        bent = (bent.view(*summary.there.shape, -1) * summary.there.unsqueeze(-1)).flatten(-2)
        read = torch.cat([bent, summary.seen, statics.to(bent.dtype)], -1)
        shared = functional.relu(self.first(self.input_dropout(read)))
        own = self.dropout(shared.unsqueeze(-2) * self.factors)
        own = self.dropout(functional.relu(self.second(own)))
        return torch.einsum("...kh,kho->...ko", own, self.last) + self.bias


def _gather(
    values: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Tensor,
    counts: Sequence[Tensor],
    seen: Sequence[Tensor],
    hours_since: Tensor,
    hours: Tensor,
    statics: Tensor,
) -> _Summary:
    """Put the figures side by side.

    Args:
        values: The last, largest, smallest and first value observed, (..., F) each.
        means: Of the values observed, in all and in each window, (..., F) each.
        squares: Mean of the squared values observed, (..., F).
        counts: Of observations, in all and in each window, (..., F) each.
        seen: Whether anything was observed, in all and in each window, (..., F) each.
        hours_since: From the last step in which each feature was observed, (..., F).
        hours: Since the first step, (..., 1).
        statics: (..., S).
    """
    last, _, _, first = values
    deviation = ((squares - means[0] ** 2).clamp(min=0) + _LEAST_VARIANCE).sqrt()
    figures, there = [], []
    # As many as there were, of which `counts` hold as much as is there.
    numbers = [count / known.masked_fill(known == 0, 1) for count, known in zip(counts, seen, strict=True)]
    for known, number, mean in zip(seen, numbers, means, strict=True):
        figures += [torch.log1p(number), mean, last]
        there += [known, known, known]
    rest = [*values[1:], last - first, deviation, scale_hours(hours_since).to(last.dtype)]
    # Where nothing was observed, these are anything: the largest of no numbers.
    figures += [torch.where(seen[0] > 0, figure, 0.0) for figure in rest]
    there += [seen[0] for _ in rest]
    known = torch.cat([scale_hours(hours), statics], -1).to(last.dtype)
    figures += [torch.log1p(numbers[0].sum(-1, keepdim=True)), known]
    there += [seen[0].amax(-1, keepdim=True), torch.ones_like(known)]
    return _Summary(torch.cat(figures, -1), torch.cat(there, -1), torch.cat(list(seen), -1))


def _ends(was: Tensor) -> tuple[Tensor, Tensor]:
    """Where the first and the last true step of each feature is, (B, 1, F) each; anything where there is none."""
    there = was.to(torch.uint8)
    last = was.shape[1] - 1 - there.flip(1).argmax(1, keepdim=True)
    return there.argmax(1, keepdim=True), last


def _some_steps(lengths: Tensor, steps: int) -> Tensor:
    """A few real steps of each history, evenly spaced from its end, (B, T) bool."""
    back = lengths[:, None] - 1 - torch.arange(steps, device=lengths.device)
    return (back >= 0) & (back % (-(-lengths // _STEPS))[:, None] == 0)


def _earlier(total: Tensor, steps: int) -> Tensor:
    """Running totals (B, T, F) as they were so many steps before."""
    return functional.pad(total, (0, 0, steps, 0))[:, : total.shape[1]]
