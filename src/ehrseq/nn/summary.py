"""A network on a summary of the history, beside the recurrent one."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ehrseq.nn.checks import check_count, check_flag, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.embedding import scale_hours
from ehrseq.nn.masking import last_state, step_mask
from ehrseq.nn.pieces import HOUR_KNOTS, KNOTS, pieces

# Of logarithms of counts, of deviations and of scaled hours, which are never negative.
_AMOUNT_KNOTS = (0.0, 0.35, 0.7, 1.0, 1.4, 1.9)
_LEAST_COUNT = 1e-6  # of observations, where there are none
# Under the root, so that the deviation of equal values is not made of rounding errors.
_LEAST_VARIANCE = 0.01
_LEAST_SPREAD, _FURTHEST = 1e-3, 5.0  # of standardised figures


class SummaryNetwork(nn.Module):
    """Several small networks on what each feature did over the whole history and over its last steps.

    With few histories a recurrent net spends them on finding means, extremes and last values again; this one is given
    them, bent at fixed knots (see `pieces`), and the recurrent net adds what order and timing say. The K members share
    their two layers and differ by learned factors on the units between them and by their output weights (TabM-mini of
    Gorishniy et al. 2025, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling").

    Of each feature: mean and last of the filled values, mean of the filled values in the last w steps; largest,
    smallest, mean, first, standard deviation and last less first of what was observed; how often it was observed, in
    all and in the last w steps, and how long ago. 0 where nothing was observed. And the hours since the first step.

    Args:
        num_features: F, the number of features of the grid.
        num_statics: S, the number of static features.
        outputs: O, as many as the head has.
        hidden_size: Size of both hidden ReLU layers.
        members: K.
        windows: Numbers w of steps.
        hour_pieces: Whether hours since the first step are bent at `HOUR_KNOTS`, in place of the few knots of amounts:
            for predictions all along a stay.
        standard: Whether figures are standardised by `train` (see `fit`), and read as they are and in pieces; else in
            pieces alone. What is rare, such as a measurement that few are given, then counts for as much as what is
            common; so there are also means of what was observed in the last w steps alone.
        input_dropout: Dropout probability of the summary.
        dropout: Dropout probability of the hidden layers, each member's own.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "hours_since", "hours_before", "statics", "lengths")
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        num_features: int,
        num_statics: int,
        outputs: int = 1,
        hidden_size: int = 64,
        members: int = 16,
        windows: Sequence[int] = (6, 12, 24),
        hour_pieces: bool = False,
        standard: bool = False,
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
        self.hour_pieces = check_flag("hour_pieces", hour_pieces)
        self.standard = check_flag("standard", standard)
        values, amounts = 7 + len(self.windows) * (2 if standard else 1), 3 + len(self.windows)
        if standard:
            each = (values + amounts) * len(KNOTS)
            self.register_buffer("mean", torch.zeros(num_features * (values + amounts)))
            self.register_buffer("spread", torch.ones(num_features * (values + amounts)))
        else:
            each = values * (len(KNOTS) - 1) + amounts * (len(_AMOUNT_KNOTS) - 1)
        size = num_features * (each + 1)
        size += num_statics * len(KNOTS) + len(HOUR_KNOTS if hour_pieces else _AMOUNT_KNOTS) - 1
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
        """Take mean and standard deviation of all figures from `train`, where they are standardised.

        Args:
            histories: The arguments of `forward`, batch by batch.
            steps: Whether predictions are made at every step, of what has come so far; else of whole histories.
        """
        if not self.standard:
            return
        count = 0
        total = square = torch.zeros(self.mean.shape, dtype=torch.float64)
        for history in histories:
            given = {name: history[name] for name in ("values", "observed", "hours_since", "hours_before")}
            found = self._so_far(**given) if steps else self._whole(**given, lengths=history["lengths"])
            numbers = torch.cat(found[:2], -1).double()
            if steps:
                numbers = numbers[step_mask(history["lengths"], numbers.shape[1])]
            count += len(numbers)
            total, square = total + numbers.sum(0), square + numbers.square().sum(0)
        if count:
            mean = total / count
            self.mean.copy_(mean)
            self.spread.copy_((square / count - mean.square()).clamp(min=0).sqrt() + _LEAST_SPREAD)

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
        return self._read(*self._whole(values, observed, hours_since, hours_before, lengths), statics)

    def _whole(
        self, values: Tensor, observed: Tensor, hours_since: Tensor, hours_before: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of whole histories: V values (B, VF), amounts (B, 3F + WF), if ever seen (B, F), hours (B, 1)."""
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
        if self.standard:
            figures += [(masks[:, 1:] @ seen_value / counts[:, 1:].clamp(min=_LEAST_COUNT)).flatten(1)]
        hours = hours_before[:, :1] - last_state(hours_before.unsqueeze(-1), lengths)
        return torch.cat(figures, -1), torch.cat(amounts, -1), seen, hours

    def steps(
        self,
        values: Tensor,
        observed: Tensor,
        hours_since: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        lengths: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """What the members say at each step, of what has come so far; the arguments of `forward`.

        Returns:
            (B, T, K, O); anything on padding.
        """
        known = statics.unsqueeze(1).expand(-1, values.shape[1], -1)
        return self._read(*self._so_far(values, observed, hours_since, hours_before), known)

    def _so_far(
        self, values: Tensor, observed: Tensor, hours_since: Tensor, hours_before: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """At each step: V values (B, T, VF), amounts (B, T, 3F + WF), if ever seen (B, T, F), hours (B, T, 1)."""
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
        means = []
        for window in self.windows:
            inside = count - _earlier(count, window)
            figures.append((total - _earlier(total, window)) / step.clamp(max=window))
            amounts.append(torch.log1p(inside) / 2)
            if self.standard:
                own = measured_total - _earlier(measured_total, window)
                means.append(own / inside.clamp(min=1) * (inside > 0))
        figures += means
        hours = (hours_before[:, :1] - hours_before).unsqueeze(-1)
        return torch.cat(figures, -1), torch.cat(amounts, -1), seen, hours

    def _read(self, figures: Tensor, amounts: Tensor, seen: Tensor, hours: Tensor, statics: Tensor) -> Tensor:
        statics = statics.to(figures.dtype)
        passed = pieces(hours, HOUR_KNOTS) if self.hour_pieces else pieces(scale_hours(hours), _AMOUNT_KNOTS)
        if self.standard:
            numbers = (torch.cat([figures, amounts], -1) - self.mean) / self.spread
            summary = [pieces(numbers), numbers.clamp(-_FURTHEST, _FURTHEST)]
        else:
            summary = [pieces(figures), pieces(amounts, _AMOUNT_KNOTS)]
        summary += [passed.to(figures.dtype), seen, pieces(statics), statics]
        shared = functional.relu(self.first(self.input_dropout(torch.cat(summary, -1))))
        own = self.dropout(shared.unsqueeze(-2) * self.factors)
        own = self.dropout(functional.relu(self.second(own)))
        # Member by member: one batched product with so few columns takes several times as long on a CPU.
        told = [units @ weights for units, weights in zip(own.unbind(-2), self.last.unbind(0), strict=True)]
        return torch.stack(told, -2) + self.bias


def _earlier(total: Tensor, steps: int) -> Tensor:
    """Running totals (B, T, F) as they were so many steps before."""
    return functional.pad(total, (0, 0, steps, 0))[:, : total.shape[1]]
