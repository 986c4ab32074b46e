"""A network on a summary of the history, beside the recurrent one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ehrseq.nn.checks import check_count, check_flag, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.embedding import scale_hours
from ehrseq.nn.masking import last_state, step_mask
from ehrseq.nn.pieces import KNOTS, pieces

# Of logarithms of counts, of deviations and of scaled hours, which are never negative.
_AMOUNT_KNOTS = (0.0, 0.35, 0.7, 1.0, 1.4, 1.9)
_LEAST_COUNT = 1e-6  # of observations, where there are none
# Under the root, so that the deviation of equal values is not made of rounding errors.
_LEAST_VARIANCE = 0.01
# Of standardised figures. From 0 to 1 around a threshold it takes so much, so that there is a gradient.
_LEAST_SPREAD, _FURTHEST, _WIDTH = 1e-3, 5.0, 0.02
_NOWHERE = 1e6  # a threshold that nothing is above of
_LEAST_HOURS = 1e-3  # squared, between observations that have a slope


class SummaryNetwork(nn.Module):
    """Several small networks on what each feature did over the whole history and over its last steps.

    With few histories a recurrent net spends them on finding means, extremes and last values again; this one is given
    them, bent at fixed knots (see `pieces`), and the recurrent net adds what order and timing say. The K members share
    their two layers and differ by learned factors on the units between them and by their output weights (TabM-mini of
    Gorishniy et al. 2025, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling").

    Of each feature: mean and last of the filled values, mean of the filled values in the last w steps; largest,
    smallest, mean, first, standard deviation and last less first of what was observed; how often it was observed, in
    all and in the last w steps, and how long ago. 0 where nothing was observed. And the hours since the first step.

    With `thresholds`, there are also the slope (least squares) of what was observed, and mean and last of what was
    observed in the last w steps alone. All figures, whether a feature was ever seen, the hours and the statics are
    standardised by `train` (see `fit`), and are read as they are and by thresholds: 0 below, 1 above. Where these lie
    is found beforehand (see `place`), so that a figure has as many as it needs, where it needs them (target-aware bins
    of Gorishniy et al. 2022, "On Embeddings for Numerical Features"). What trees say of a history jumps at thresholds;
    a network that bends at fixed knots is far from it where risks are highest.

    Args:
        num_features: F, the number of features of the grid.
        num_statics: S, the number of static features.
        outputs: O, as many as the head has.
        hidden_size: Size of both hidden ReLU layers.
        members: K.
        windows: Numbers w of steps.
        thresholds: How many all figures have together; 0: figures are bent at a few fixed knots instead.
        added: Whether its outputs are added to the recurrent net's, which then learns what they lack; else both learn
            by themselves.
        input_dropout: Dropout probability of the summary.
        dropout: Dropout probability of the hidden layers, each member's own.

    Attributes:
        numbers: N, how many numbers of a history can have thresholds; 0 without.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "hours_since", "hours_before", "statics", "lengths")
    mean: Tensor
    spread: Tensor
    column: Tensor
    threshold: Tensor

    def __init__(
        self,
        num_features: int,
        num_statics: int,
        outputs: int = 1,
        hidden_size: int = 64,
        members: int = 16,
        windows: Sequence[int] = (6, 12, 24),
        thresholds: int = 0,
        added: bool = False,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = check_count("num_features", num_features)
        check_count("num_statics", num_statics, least=0)
        check_count("hidden_size", hidden_size)
        self.members = check_count("members", members)
        self.outputs = check_count("outputs", outputs)
        self.windows = tuple(check_count("windows", steps) for steps in windows)
        self.thresholds = check_count("thresholds", thresholds, least=0)
        self.added = check_flag("added", added)
        values, amounts = 7 + len(self.windows), 3 + len(self.windows)
        self.numbers = 0
        if thresholds:
            self.numbers = num_features * (values + 1 + 2 * len(self.windows) + amounts + 1) + 1 + num_statics
            size = self.numbers + thresholds
            self.register_buffer("mean", torch.zeros(self.numbers))
            self.register_buffer("spread", torch.ones(self.numbers))
            self.register_buffer("column", torch.zeros(thresholds, dtype=torch.int64))
            self.register_buffer("threshold", torch.full((thresholds,), _NOWHERE))
        else:
            each = values * (len(KNOTS) - 1) + amounts * (len(_AMOUNT_KNOTS) - 1)
            size = num_features * (each + 1) + num_statics * len(KNOTS) + len(_AMOUNT_KNOTS) - 1
        self.first = nn.Linear(size, hidden_size)
        self.second = nn.Linear(hidden_size, hidden_size)
        # Signs at first: members that start alike stay alike.
        self.factors = nn.Parameter(torch.where(torch.rand(members, hidden_size) < 0.5, -1.0, 1.0))
        self.last = nn.Parameter(torch.randn(members, hidden_size, outputs) * 0.3 / hidden_size**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.dropout = Dropout(check_probability("dropout", dropout))

    @torch.no_grad()
    def fit(self, histories: Iterable[Mapping[str, Tensor]], steps: bool) -> None:
        """Take mean and standard deviation of all numbers from `train`, where there are thresholds.

        Args:
            histories: The arguments of `forward`, batch by batch.
            steps: Whether predictions are made at every step, of what has come so far; else of whole histories.
        """
        if not self.thresholds:
            return
        count = 0
        total = square = torch.zeros(self.mean.shape, dtype=torch.float64)
        for history in histories:
            numbers = self._numbers(history, steps).double()
            if steps:
                numbers = numbers[step_mask(history["lengths"], numbers.shape[1])]
            count += len(numbers)
            total, square = total + numbers.sum(0), square + numbers.square().sum(0)
        if count:
            mean = total / count
            self.mean.copy_(mean)
            self.spread.copy_((square / count - mean.square()).clamp(min=0).sqrt() + _LEAST_SPREAD)

    @torch.no_grad()
    def standardised(self, history: Mapping[str, Tensor], steps: bool) -> Tensor:
        """The numbers that thresholds are for; the arguments of `fit`, of one batch.

        Returns:
            (B, N), or (B, T, N) at every step; anything on padding.
        """
        return self._standardise(self._numbers(history, steps))

    def _standardise(self, numbers: Tensor) -> Tensor:
        return (numbers - self.mean) / self.spread

    @torch.no_grad()
    def place(self, column: Tensor, threshold: Tensor) -> None:
        """Set the thresholds; where there are fewer than `thresholds`, the rest says nothing.

        Args:
            column: (L,) which of the N numbers each is of.
            threshold: (L,) in the unit of `standardised`.
        """
        self.column.zero_()
        self.threshold.fill_(_NOWHERE)
        self.column[: len(column)] = column
        self.threshold[: len(column)] = threshold

    def _numbers(self, history: Mapping[str, Tensor], steps: bool) -> Tensor:
        """All that is read of a history, in one row."""
        given = {name: history[name] for name in ("values", "observed", "hours_since", "hours_before")}
        statics = history["statics"]
        if steps:
            return _side_by_side(self._so_far(**given), statics.unsqueeze(1).expand(-1, given["values"].shape[1], -1))
        return _side_by_side(self._whole(**given, lengths=history["lengths"]), statics)

    def forward(
        self,
        values: Tensor,
        observed: Tensor,
        hours_since: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """What the members say of each history.

        Args:
            values: Normalised values with the gaps filled, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F).
            hours_since: Hours since the feature was last seen, (B, T, F).
            hours_before: Hours from each step to the prediction, (B, T).
            statics: Normalised static features, (B, S).
            lengths: Number of real steps of each history, (B,).

        Returns:
            (B, K, O).
        """
        return self._read(self._whole(values, observed, hours_since, hours_before, lengths), statics)

    def _whole(
        self, values: Tensor, observed: Tensor, hours_since: Tensor, hours_before: Tensor, lengths: Tensor
    ) -> "_Figures":
        """Of whole histories."""
        observed = observed.to(values.dtype)
        real = step_mask(lengths, values.shape[1])
        # Sums over all steps and over the last ones of each history, as products with their masks, (B, 1 + W, T).
        back = lengths[:, None] - torch.arange(values.shape[1], device=values.device)
        masks = torch.stack([real] + [real & (back <= window) for window in self.windows], dim=1).to(values.dtype)
        totals, counts = masks @ values, masks @ observed
        counted = observed * real.unsqueeze(-1)
        seen_value = values * counted
        # Forms that fade smoothly with what was observed: explanations go from 0 to 1 of it.
        count, some, seen = counts[:, 0], counts[:, 0].clamp(min=_LEAST_COUNT), counted.amax(1)
        last = last_state(values, lengths)
        first = seen_value.gather(1, counted.argmax(1, keepdim=True)).squeeze(1)
        most = torch.finfo(values.dtype).max
        was = counted > 0
        high, low = torch.where(was, values, -most).amax(1), torch.where(was, values, most).amin(1)
        mean = seen_value.sum(1) / some
        variance = ((values * seen_value).sum(1) / some - mean**2).clamp(min=0)
        sizes = lengths[:, None].to(values.dtype)
        since = scale_hours(last_state(hours_since, lengths)).to(values.dtype)
        figures = [totals[:, 0] / sizes, last, high * seen, low * seen, mean, first, (last - first) * seen]
        amounts = [torch.log1p(count) / 2, (variance + _LEAST_VARIANCE).sqrt() * seen, since]
        for number, window in enumerate(self.windows, 1):
            figures.append(totals[:, number] / sizes.clamp(max=window))
            amounts.append(torch.log1p(counts[:, number]) / 2)
        hour = (hours_before[:, :1] - hours_before).unsqueeze(-1)
        hours = last_state(hour, lengths)
        if self.thresholds:
            figures += [(masks[:, 1:] @ seen_value / counts[:, 1:].clamp(min=_LEAST_COUNT)).flatten(1)]
            figures += [(last.unsqueeze(1) * (counts[:, 1:] > 0)).flatten(1)]
            away = (hour - (hour * counted).gather(1, counted.argmax(1, keepdim=True))) * counted
            total = away.sum(1), away.square().sum(1), seen_value.sum(1), (away * values).sum(1)
            figures.append(_slope(some, *total))
        return _Figures(torch.cat(figures, -1), torch.cat(amounts, -1), seen, hours)

    def steps(
        self,
        values: Tensor,
        observed: Tensor,
        hours_since: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,  # noqa: ARG002
        wanted: Tensor | None = None,
    ) -> Tensor:
        """What the members say at each step, of what has come so far; the arguments of `forward`, and which are wanted.

        Returns:
            (B, T, K, O); 0 where not wanted (`wanted`: (B, T), boolean; None: all steps are), anything on padding.
        """
        found = self._so_far(values, observed, hours_since, hours_before)
        known = statics.unsqueeze(1).expand(-1, values.shape[1], -1)
        if wanted is None:
            return self._read(found, known)
        told = self._read(_Figures(*(part[wanted] for part in found)), known[wanted])
        return told.new_zeros(*wanted.shape, *told.shape[1:]).masked_scatter(wanted[..., None, None], told)

    def _so_far(self, values: Tensor, observed: Tensor, hours_since: Tensor, hours_before: Tensor) -> "_Figures":
        """At each step."""
        observed = observed.to(values.dtype)
        step = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)[:, None]
        total, count = values.cumsum(1), observed.cumsum(1)
        seen, some = (count > 0).to(values.dtype), count.clamp(min=1)
        measured = values * observed
        measured_total = measured.cumsum(1)
        mean = measured_total / some
        first = (measured * (count == 1)).cumsum(1)
        most = torch.finfo(values.dtype).max
        high = torch.where(observed > 0, values, -most).cummax(1).values
        low = torch.where(observed > 0, values, most).cummin(1).values
        variance = ((values**2 * observed).cumsum(1) / some - mean**2).clamp(min=0)
        figures = [total / step, values, high * seen, low * seen, mean, first, (values - first) * seen]
        amounts = [torch.log1p(count) / 2, (variance + _LEAST_VARIANCE).sqrt() * seen, scale_hours(hours_since)]
        means, lasts = [], []
        for window in self.windows:
            inside = count - _earlier(count, window)
            figures.append((total - _earlier(total, window)) / step.clamp(max=window))
            amounts.append(torch.log1p(inside) / 2)
            if self.thresholds:
                own = measured_total - _earlier(measured_total, window)
                means.append(own / inside.clamp(min=1) * (inside > 0))
                lasts.append(values * (inside > 0))
        hours = (hours_before[:, :1] - hours_before).unsqueeze(-1)
        if self.thresholds:
            # Hours from the first observation on, so that little cancels out late in a long history.
            away = (hours - (hours * observed * (count == 1)).cumsum(1)) * observed
            sums = away.cumsum(1), away.square().cumsum(1), measured_total, (away * values).cumsum(1)
            figures += [*means, *lasts, _slope(some, *sums)]
        return _Figures(torch.cat(figures, -1), torch.cat(amounts, -1), seen, hours)

    def _read(self, found: "_Figures", statics: Tensor) -> Tensor:
        statics = statics.to(found.values.dtype)
        if self.thresholds:
            numbers = self._standardise(_side_by_side(found, statics))
            # Of rows: with more dimensions a CPU takes several times as long to select columns.
            picked = numbers.flatten(0, -2).index_select(1, self.column).view(*numbers.shape[:-1], -1)
            above = torch.add(0.5 - self.threshold / _WIDTH, picked, alpha=1 / _WIDTH).clamp(0, 1)
            summary = [numbers.clamp(-_FURTHEST, _FURTHEST), above]
        else:
            passed = pieces(scale_hours(found.hours), _AMOUNT_KNOTS).to(found.values.dtype)
            summary = [pieces(found.values), pieces(found.amounts, _AMOUNT_KNOTS)]
            summary += [passed, found.seen, pieces(statics), statics]
        shared = functional.relu(self.first(self.input_dropout(torch.cat(summary, -1))))
        own = self.dropout(shared.unsqueeze(-2) * self.factors)
        own = self.dropout(functional.relu(self.second(own)))
        # Member by member: one batched product with so few columns takes several times as long on a CPU.
        told = [units @ weights for units, weights in zip(own.unbind(-2), self.last.unbind(0), strict=True)]
        return torch.stack(told, -2) + self.bias


def _earlier(total: Tensor, steps: int) -> Tensor:
    """Running totals (B, T, F) as they were so many steps before."""
    return functional.pad(total, (0, 0, steps, 0))[:, : total.shape[1]]


class _Figures(NamedTuple):
    """What is read of the features of histories, or of their steps; (..., number of figures times F) but for `hours`.

    Attributes:
        values: In the unit of the normalised values; the slope by hour.
        amounts: Logarithms of counts, deviations, scaled hours.
        seen: 1 where a feature was ever seen, (..., F).
        hours: Since the first step, (..., 1).
    """

    values: Tensor
    amounts: Tensor
    seen: Tensor
    hours: Tensor


def _side_by_side(found: _Figures, statics: Tensor) -> Tensor:
    """All numbers of a history in one row, (..., N)."""
    return torch.cat([part.to(found.values.dtype) for part in (*found, statics)], -1)


def _slope(count: Tensor, hours: Tensor, squares: Tensor, total: Tensor, products: Tensor) -> Tensor:
    """By hour, least squares, of sums over what was observed; 0 where it was observed at one time alone."""
    spread = squares - hours.square() / count
    apart = spread > _LEAST_HOURS
    slope: Tensor = torch.where(apart, (products - total * hours / count) / spread.clamp(min=_LEAST_HOURS), 0.0)
    return slope
