"""Explanations by taking away: what the score was without a part, a code, a stretch of time."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ehrseq.errors import ConfigError
from ehrseq.explain.base import Attribution, Explainer
from ehrseq.explain.histories import Histories, Replacement
from ehrseq.nn import SequenceModel

_GROUPS = 64
_ROWS = 512  # histories, each without something, that are read at once


class _Occlusion(Explainer):
    """Takes away one group of parts after the other; the difference of the scores is shared by the group's parts.

    Args:
        model: The trained network.
        replacement: What stands in the place of what is taken away.
    """

    def __init__(self, model: SequenceModel, replacement: Replacement = "carry") -> None:
        super().__init__(model)
        self.replacement = replacement

    @abstractmethod
    def groups(self, histories: Histories) -> Tensor:
        """(B, P) the number of the group, from 0, that each part is in; -1: none."""

    @torch.no_grad()
    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        group = self.groups(histories).masked_fill(~histories.present, -1)
        effect = occlude(self.model, histories, group, self.replacement)
        return self._shared(histories, effect, group)

    def _shared(self, histories: Histories, effect: Tensor, group: Tensor, rest: Tensor | None = None) -> Attribution:
        """Effects of groups, (B, G), shared equally by the parts of each."""
        group = group.masked_fill(~histories.present, -1)
        number = torch.zeros_like(effect).scatter_add(1, group.clamp(min=0), (group >= 0).to(effect.dtype))
        share = (effect / number.clamp(min=1)).gather(1, group.clamp(min=0))
        return Attribution(self.name, self.signed, share.masked_fill(group < 0, 0.0), rest=rest)


class EventOcclusion(_Occlusion):
    """Leave one event out (Zeiler and Fergus 2014; for text Li et al. 2016)."""

    name: ClassVar[str] = "occlusion"

    def groups(self, histories: Histories) -> Tensor:
        """Each part by itself."""
        return histories.present.long().cumsum(1) - 1


class CodeOcclusion(_Occlusion):
    """Leave one code out, all its events at once; of a history with very many codes, the rarest of them together."""

    name: ClassVar[str] = "code_occlusion"

    def groups(self, histories: Histories) -> Tensor:
        """The parts of each of the 64 codes with most events, from the most frequent; the others are in the last."""
        code = histories.code.expand(len(histories), -1).masked_fill(~histories.present, -1)
        codes = int(code.max()) + 1
        number = torch.zeros(len(code), codes, device=code.device)
        number = number.scatter_add(1, code.clamp(min=0), (code >= 0).float())
        rank = number.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return rank.gather(1, code.clamp(min=0)).clamp(max=_GROUPS - 1).masked_fill(code < 0, -1)


class WindowOcclusion(_Occlusion):
    """Leave one code out of one stretch of time.

    Args:
        model: The trained network.
        window_hours: Length of a stretch, counted back from the prediction.
        replacement: What stands in the place of what is taken away.
    """

    name: ClassVar[str] = "window_occlusion"

    def __init__(self, model: SequenceModel, window_hours: float = 6.0, replacement: Replacement = "carry") -> None:
        super().__init__(model, replacement)
        self.window_hours = window_hours

    def groups(self, histories: Histories) -> Tensor:
        """The parts of each code in each stretch, numbered without gaps."""
        window = (histories.hours.nan_to_num(0.0) / self.window_hours).long().clamp(min=0)
        code = histories.code.expand(len(histories), -1)
        key = window * (int(code.max()) + 1) + code
        numbered = torch.full_like(key, -1)
        for row, mine in enumerate(histories.present):
            numbered[row, mine] = torch.unique(key[row, mine], return_inverse=True)[1]
        return numbered


class TimeOcclusion(WindowOcclusion):
    """Leave one stretch of time out, whatever happened in it."""

    name: ClassVar[str] = "time_occlusion"

    def groups(self, histories: Histories) -> Tensor:
        """The parts of each stretch; statics are in none."""
        window = (histories.hours.nan_to_num(0.0) / self.window_hours).long().clamp(min=0)
        return window.masked_fill(histories.hours.isnan(), -1).clamp(max=histories.parts - 1)


class Shapley(CodeOcclusion):
    """Shapley values of codes (Strumbelj and Kononenko 2010), by captum: a code's mean effect over random orders.

    They sum to the score less that of a history without anything. A code's value is shared by its events.

    Args:
        model: The trained network.
        orders: How many random orders.
        seed: Of the orders.

    Raises:
        ConfigError: If captum is not installed.
    """

    name: ClassVar[str] = "shapley"

    def __init__(self, model: SequenceModel, orders: int = 10, seed: int = 0) -> None:
        super().__init__(model)
        self.orders, self.seed = orders, seed
        try:
            import captum  # noqa: F401
        except ImportError as error:
            raise ConfigError("explain.explainers: shapley needs captum; pip install 'ehrseq[explain]'") from error

    @torch.no_grad()
    def attribute(self, histories: Histories) -> Attribution:
        """See `Explainer.attribute`."""
        from captum.attr import ShapleyValueSampling

        groups = self.groups(histories)
        codes = int(groups.max()) + 1  # the most of any history

        def score(kept: Tensor) -> Tensor:
            return self.score(histories.fill(histories.present & (kept.gather(1, groups.clamp(min=0)) > 0)))

        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            everything = torch.ones(len(histories), codes, device=groups.device)
            value = ShapleyValueSampling(score).attribute(everything, n_samples=self.orders)
        rest = self.score(histories.fill(torch.zeros_like(histories.present)))
        return self._shared(histories, value, groups, rest)


@torch.no_grad()
def occlude(model: SequenceModel, histories: Histories, group: Tensor, replacement: Replacement = "carry") -> Tensor:
    """What each group of parts adds to the score: the score less that without them.

    Args:
        model: The trained network.
        histories: B of them.
        group: (B, P) the group that each part is in, less than P; -1: none.
        replacement: What stands in the place of what is taken away.

    Returns:
        (B, P) by number of group; 0 where there is none.
    """
    model.eval()
    objective = model.objective
    whole = objective.score(model(histories.batch).output)
    there = torch.zeros_like(group).scatter_add(1, group.clamp(min=0), (group >= 0).long()) > 0
    row, number = torch.nonzero(there, as_tuple=True)
    effect = torch.zeros_like(there, dtype=whole.dtype)
    for start in range(0, len(row), _ROWS):
        rows, numbers = row[start : start + _ROWS], number[start : start + _ROWS]
        some = histories.take(rows)
        gone = group[rows] == numbers[:, None]
        effect[rows, numbers] = whole[rows] - objective.score(model(some.without(gone, replacement)).output)
    return effect
