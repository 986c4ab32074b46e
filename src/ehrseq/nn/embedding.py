"""From a batch to what the recurrent net reads at each step, one embedding a representation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log1p
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_choice, check_count, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.elapsed import elapsed_hours
from ehrseq.nn.kernels import project
from ehrseq.nn.pieces import HOUR_KNOTS, KNOTS, pieces

FEATURES = ("value", "pieces", "observed", "seen", "hours_since", "hours_in", "hours_in_pieces", "static_pieces")
# A value last seen a day ago scales to 1; ages over 30 days count as 30 days.
HOURS_UNIT = 24.0
HOURS_LIMIT = 720.0


def scale_hours(hours: Tensor) -> Tensor:
    """Compress hours into a bounded range: log(1 + min(h, 720)) / log(1 + 24).

    0 h gives 0, 24 h gives 1, 48 h gives 1.21, and 30 days or more (also infinity) give the bound, 2.05. The logarithm
    keeps hours apart where they matter, soon after a measurement, and the bound keeps a feature that was never seen
    from drowning all others.

    Args:
        hours: Hours, any shape; negative ones count as 0.

    Returns:
        Scaled hours of the same shape.
    """
    return torch.log1p(hours.clamp(0.0, HOURS_LIMIT)) / log1p(HOURS_UNIT)


class Embedding(nn.Module, ABC):
    """Steps of a batch to vectors.

    Attributes:
        reads: The batch's tensors that `forward` takes, by name.
        may_read: Further ones that it takes where the batch has them.
    """

    reads: ClassVar[tuple[str, ...]]
    may_read: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def output_size(self) -> int:
        """D, the size of an embedded step."""

    @abstractmethod
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Embed each step, (B, T, D)."""


class GridEmbedding(Embedding):
    """Concatenate what is known at each step: values, what was observed, how old it is, and the statics.

    Values with their mask and the time since the last observation are the inputs that make missingness itself
    informative (Che et al. 2018, "Recurrent Neural Networks for Multivariate Time Series with Missing Values").

    Args:
        num_features: F, the number of features of the grid.
        num_statics: S, the number of static features.
        projection: Size of a projection of the concatenation, linear with ReLU; none by default.
        input_dropout: Dropout probability of the concatenation, before it is projected.
        dropout: Dropout probability of the output.
        statics: "steps" repeats the statics at every step, "none" leaves them out (the head may still read them).
        features: Which of "value", "pieces" (of the value, see `pieces`; 0 until it is seen), "observed", "seen"
            (observed in any step so far), "hours_since", "hours_in" (since the first step; one number),
            "hours_in_pieces" (the same at `HOUR_KNOTS`) and "static_pieces" (of each static) the net sees; always
            concatenated in this order.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "hours_since", "hours_before", "statics")

    def __init__(
        self,
        num_features: int,
        num_statics: int,
        projection: int | None = None,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        statics: Literal["steps", "none"] = "steps",
        features: Sequence[str] = ("value", "observed", "seen", "hours_since"),
    ) -> None:
        super().__init__()
        self.num_features = check_count("num_features", num_features)
        self.num_statics = check_count("num_statics", num_statics, least=0)
        self.with_statics = check_choice("statics", statics, ("steps", "none")) == "steps" and num_statics > 0
        self.features = _check_features(features)
        per_feature = {"value": 1, "pieces": len(KNOTS) - 1, "observed": 1, "seen": 1, "hours_since": 1}
        alone = {
            "hours_in": 1,
            "hours_in_pieces": len(HOUR_KNOTS) - 1,
            "static_pieces": num_statics * (len(KNOTS) - 1),
        }
        self.input_size = num_statics if self.with_statics else 0
        self.input_size += sum(num_features * per_feature.get(name, 0) + alone.get(name, 0) for name in self.features)
        self.linear: nn.Linear | None = None
        if projection is not None:
            self.linear = nn.Linear(self.input_size, check_count("projection", projection))
        self.input_dropout = Dropout(check_probability("input_dropout", input_dropout))
        self.dropout = Dropout(check_probability("dropout", dropout))

    @property
    def output_size(self) -> int:
        """D, the size of an embedded step."""
        return self.input_size if self.linear is None else self.linear.out_features

    def forward(  # type: ignore[override]
        self, values: Tensor, observed: Tensor, hours_since: Tensor, hours_before: Tensor, statics: Tensor
    ) -> Tensor:
        """Embed each step; no step sees a later one.

        Args:
            values: Normalised values with the gaps filled, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F).
            hours_since: Hours since the feature was last seen, (B, T, F).
            hours_before: Hours from each step to the prediction, (B, T).
            statics: Normalised static features, (B, S).

        Returns:
            Embedded steps, (B, T, D).
        """
        parts = []
        observed = observed.to(values.dtype)
        seen = observed
        if not {"pieces", "seen"}.isdisjoint(self.features):
            # The same of 0 and 1: one fades smoothly, as explanations need it, the other is several times as fast.
            seen = observed.cummax(1).values if observed.requires_grad else observed.cumsum(dim=1).clamp_(max=1.0)
        if "value" in self.features:
            parts.append(values)
        if "pieces" in self.features:
            parts.append(pieces(values) * seen.repeat_interleave(len(KNOTS) - 1, dim=-1))
        if "observed" in self.features:
            parts.append(observed)
        if "seen" in self.features:
            parts.append(seen)
        if "hours_since" in self.features:
            parts.append(scale_hours(hours_since).to(values.dtype))
        if "hours_in" in self.features:
            parts.append(scale_hours(_hours_in(hours_before)).to(values.dtype))
        if "hours_in_pieces" in self.features:
            parts.append(pieces(_hours_in(hours_before), HOUR_KNOTS).to(values.dtype))
        statics = statics.to(values.dtype)
        constant = [pieces(statics)] if "static_pieces" in self.features else []
        constant += [statics] if self.with_statics else []
        parts += [numbers.unsqueeze(1).expand(-1, values.shape[1], -1) for numbers in constant]
        # Joined only where something has to be done to all of them.
        if self.linear is None or (self.training and self.input_dropout.p):
            parts = [self.input_dropout(torch.cat(parts, dim=-1))]
        embedded = parts[0] if self.linear is None else _project(parts, self.linear)
        dropped: Tensor = self.dropout(embedded)
        return dropped


def _project(parts: list[Tensor], linear: nn.Linear) -> Tensor:
    """A linear layer with ReLU, of parts side by side, (B, T, D') each, to (B, T, N)."""
    projected = project(parts, linear.weight, linear.bias)
    return torch.relu(linear(torch.cat(parts, dim=-1))) if projected is None else projected


def _hours_in(hours_before: Tensor) -> Tensor:
    """Hours since the first step, (B, T) to (B, T, 1)."""
    return (hours_before[:, :1] - hours_before).unsqueeze(-1)


class _CodeEmbedding(Embedding):
    """What embeddings of codes share.

    An event of code c with the normalised value v is E[c] + v V[c]: a learned vector a code, and a learned direction in
    which its value moves it. Of each step the net also sees how long it comes after the one before and before the
    prediction, and the statics. `presence` says how much of each event there is, 1 by default: what lies between 0 and
    1 is for explanations, which follow the gradient from none of a history to all of it.

    Args:
        num_codes: Size of the vocabulary.
        num_statics: S, the number of static features.
        size: D, the size of an embedded step.
        dropout: Dropout probability of the output.

    Raises:
        ConfigError: If an argument is out of range.
    """

    may_read = ("presence",)

    def __init__(self, num_codes: int, num_statics: int, size: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        check_count("num_codes", num_codes)
        check_count("num_statics", num_statics, least=0)
        self.size = check_count("size", size)
        self.code = nn.Embedding(num_codes, size)
        self.slope = nn.Embedding(num_codes, size)
        self.context = nn.Linear(2 + num_statics, size)
        self.dropout = Dropout(check_probability("dropout", dropout))
        for table in (self.code, self.slope):
            nn.init.normal_(table.weight, std=0.3)

    @property
    def output_size(self) -> int:
        """D, the size of an embedded step."""
        return self.size

    def _finish(self, events: Tensor, hours_before: Tensor, statics: Tensor) -> Tensor:
        """Adds times and statics to the (B, T, D) sums of events."""
        times = torch.stack([scale_hours(elapsed_hours(hours_before)), scale_hours(hours_before)], dim=-1)
        known = statics.to(times.dtype).unsqueeze(1).expand(-1, times.shape[1], -1)
        context = self.context(torch.cat([times, known], dim=-1))
        embedded: Tensor = self.dropout(torch.tanh(events + context))
        return embedded


class EventEmbedding(_CodeEmbedding):
    """Embeds the `events` representation; see `_CodeEmbedding` for the arguments."""

    reads = ("codes", "values", "has_value", "hours_before", "statics")

    def forward(  # type: ignore[override]
        self,
        codes: Tensor,
        values: Tensor,
        has_value: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        presence: Tensor | None = None,
    ) -> Tensor:
        """Embed each event.

        Args:
            codes: Positions in the vocabulary, (B, T), integer.
            values: Normalised values, (B, T).
            has_value: Whether there is a value, (B, T).
            hours_before: Hours from each event to the prediction, (B, T).
            statics: Normalised static features, (B, S).
            presence: How much of each event there is, (B, T).

        Returns:
            (B, T, D).
        """
        events = self.code(codes) + (values * has_value).unsqueeze(-1) * self.slope(codes)
        if presence is not None:
            events = events * presence.unsqueeze(-1)
        return self._finish(events, hours_before, statics)


class TimepointEmbedding(_CodeEmbedding):
    """Embeds the `timepoints` representation: the events of a step are summed and divided by the root of their number.

    See `_CodeEmbedding` for the arguments.
    """

    reads = ("codes", "values", "has_value", "first_event", "hours_before", "statics")

    def forward(  # type: ignore[override]
        self,
        codes: Tensor,
        values: Tensor,
        has_value: Tensor,
        first_event: Tensor,
        hours_before: Tensor,
        statics: Tensor,
        presence: Tensor | None = None,
    ) -> Tensor:
        """Embed each time.

        Args:
            codes: Positions in the vocabulary, (E,), integer.
            values: Normalised values, (E,).
            has_value: Whether there is a value, (E,).
            first_event: Where the events of each step begin, (B, T).
            hours_before: Hours from each step to the prediction, (B, T).
            statics: Normalised static features, (B, S).
            presence: How much of each event there is, (E,).

        Returns:
            (B, T, D).
        """
        first = first_event.reshape(-1)
        number = torch.diff(first, append=first.new_tensor([len(codes)]))
        codes = codes.to(first.dtype)
        slopes = (values * has_value).to(self.slope.weight.dtype)
        if presence is not None:
            slopes = slopes * presence
        total = nn.functional.embedding_bag(codes, self.code.weight, first, mode="sum", per_sample_weights=presence)
        total = total + nn.functional.embedding_bag(
            codes, self.slope.weight, first, mode="sum", per_sample_weights=slopes
        )
        total = total / number.clamp(min=1).to(total.dtype).sqrt().unsqueeze(-1)
        return self._finish(total.reshape(*first_event.shape, -1), hours_before, statics)


def _check_features(features: Sequence[str]) -> tuple[str, ...]:
    """Order the chosen features as in `FEATURES`."""
    if isinstance(features, str) or not features:
        raise ConfigError(f"features is {features!r}; allowed is a list of at least one of {', '.join(FEATURES)}")
    for feature in features:
        check_choice("features", feature, FEATURES)
    if len(set(features)) < len(features):
        raise ConfigError(f"features is {list(features)!r}; allowed is each of {', '.join(FEATURES)} once")
    return tuple(feature for feature in FEATURES if feature in features)
