"""Networks that a trained one is held against, and what they say of its attention."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.explain.faithfulness import Figures
from ehrseq.metrics.intervals import Estimate
from ehrseq.nn import Objective, Prediction, SequenceModel, attention_divergence

EVEN, LEARNED, RIVAL = "even", "learned", "rival"
_ELSEWHERE = 0.5  # of the largest divergence
_SAME = 0.1  # of the spread of the predictions


@dataclass(frozen=True)
class Controls:
    """Networks like the one that is explained, trained for the sake of the verdict; each may be missing.

    Attributes:
        seeds: The same with other seeds.
        shuffled_labels: The same, trained on permuted labels (Adebayo et al. 2018).
        even: The same, trained with even weights of its steps.
        rivals: By lambda, trained to predict the same and attend elsewhere, see `ehrseq.training.rival`.
        guided: Without context, see `ehrseq.nn.guided`: by whose weights its steps have, `attention` (those of the
            network that is explained), `learned`, `even`, `rival` (those of the first of `rivals`).
        spread: Standard deviation of the network's predictions on `tuning`, of each column; where there are others.
    """

    seeds: Sequence[SequenceModel] = ()
    shuffled_labels: SequenceModel | None = None
    even: SequenceModel | None = None
    rivals: Mapping[float, SequenceModel] = field(default_factory=dict)
    guided: Mapping[str, SequenceModel] = field(default_factory=dict)
    spread: Tensor | None = None

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._all())

    def to(self, device: torch.device) -> Self:
        """Move them, and switch them to evaluation."""
        for network in self._all():
            network.eval().to(device)
        return self

    def _all(self) -> list[SequenceModel]:
        found = [*self.seeds, self.shuffled_labels, self.even, *self.rivals.values(), *self.guided.values()]
        return [network for network in found if network is not None]


@torch.no_grad()
def attention_tests(model: SequenceModel, controls: Controls, batches: Iterable[SequenceBatch]) -> Figures:
    """The tests of Wiegreffe and Pinter (2019), as far as there are networks for them.

    Args:
        model: The network that is explained, which learns its attention.
        controls: The others, where the network is.
        batches: N histories.

    Returns:
        (N,) each, in the order of sample numbers: `even_trained`, how much greater the loss is of a network trained
        with even weights; `seeds_divergence` and `seeds_moved`, how far attention is from that of other seeds (Jensen
        and Shannon, over the largest), and predictions (in their spreads); `rival_<lambda>_divergence` and
        `rival_<lambda>_moved`, the same of networks trained to attend elsewhere; `guide_over_<weights>`, how much
        greater the loss of a network without context is with weights that are learned, even or the rival's than with
        those of the attention.
    """
    device = next(model.parameters()).device
    rows: list[Figures] = []
    samples: list[Tensor] = []
    for given in batches:
        batch = given.to(device)
        samples.append(given.samples)
        own = model(batch)
        found: dict[str, Tensor] = {}
        if controls.even is not None:
            found["even_trained"] = _losses(model, controls.even(batch), batch) - _losses(model, own, batch)
        if controls.seeds:
            apart = [_apart(model, own, net(batch), controls.spread) for net in controls.seeds]
            found["seeds_divergence"], found["seeds_moved"] = (
                torch.stack(part).mean(0) for part in zip(*apart, strict=True)
            )
        for trade_off, rival in controls.rivals.items():
            name = f"{RIVAL}_{trade_off:g}"
            found[f"{name}_divergence"], found[f"{name}_moved"] = _apart(model, own, rival(batch), controls.spread)
        losses = {name: _losses(model, net(batch), batch) for name, net in controls.guided.items()}
        for name in losses.keys() - {"attention"}:
            found[f"guide_over_{name}"] = losses[name] - losses["attention"]
        rows.append({f"attention/{name}": value.double().cpu().numpy() for name, value in found.items()})
    order = torch.cat(samples).argsort().numpy()
    return {name: np.concatenate([row[name] for row in rows])[order] for name in sorted(rows[0])}


def _apart(model: SequenceModel, own: Prediction, other: Prediction, spread: Tensor | None) -> tuple[Tensor, Tensor]:
    """How far attention and predictions are apart, (B,) each."""
    assert own.attention is not None
    assert other.attention is not None
    unit = own.output.new_ones(()) if spread is None else spread.to(own.output.device)
    return (
        attention_divergence(other.attention.double(), own.attention.double()),
        model.objective.distance(other.output, own.output, unit),
    )


def _losses(model: SequenceModel, prediction: Prediction, batch: SequenceBatch) -> Tensor:
    """The loss of each history, (B,); NaN where the outcome is unknown."""
    objective: Objective = model.objective
    rows = zip(prediction.output, batch.targets, strict=True)
    found = torch.stack([objective.terms(output[None], outcome[None])[0].sum() for output, outcome in rows])
    return found.masked_fill(batch.targets.isnan().all(1), torch.nan)


def tell_tests(metrics: Mapping[str, Estimate]) -> str:
    """What the tests say, in a sentence; empty where none was made.

    Args:
        metrics: Figures by `attention/<figure>`.
    """
    failed: list[str] = []
    passed: list[str] = []

    def value(name: str) -> float:
        found = metrics[f"attention/{name}"].value if f"attention/{name}" in metrics else None
        return float("nan") if found is None else found

    def above(name: str) -> bool:
        low = metrics[f"attention/{name}"].ci_low
        return low is not None and low > 0

    if "attention/even_trained" in metrics:
        does_as_well = "a network trained with even weights does as well"
        (passed if above("even_trained") else failed).append(does_as_well)
    if "attention/seeds_divergence" in metrics:
        elsewhere = value("seeds_divergence") > _ELSEWHERE
        (failed if elsewhere else passed).append(
            f"other seeds attend elsewhere (divergence {value('seeds_divergence'):.2f})"
        )
    rivals = _rivals(metrics)
    if rivals:
        # Predictions are the same if they move no further than those of other seeds do.
        moved = np.nanmax([_SAME, value("seeds_moved")])
        least = np.nanmax([_ELSEWHERE, value("seeds_divergence")])
        same = [name for name in rivals if value(f"{name}_moved") <= moved]
        furthest = max(same, key=lambda name: value(f"{name}_divergence")) if same else None
        found = furthest is not None and value(f"{furthest}_divergence") > least
        words = "a network was trained that predicts the same and attends elsewhere"
        words += f" (divergence {value(f'{furthest}_divergence'):.2f})" if found else ""
        (failed if found else passed).append(words)
    guides = [name for name in (EVEN, LEARNED) if f"attention/guide_over_{name}" in metrics]
    if guides:
        better = all(above(f"guide_over_{name}") for name in guides)
        words = "to a network without context it is no better a guide than even or learned weights"
        (passed if better else failed).append(words)
    number = len(passed) + len(failed)
    if not number:
        return ""
    text = f"Tests of attention passed (Wiegreffe and Pinter 2019): {len(passed)} of {number}"
    return f"{text}; failed: {', '.join(failed)}." if failed else f"{text}."


def _rivals(metrics: Mapping[str, Estimate]) -> list[str]:
    """How the figures of each rival begin."""
    names = [name.removeprefix("attention/") for name in metrics if name.startswith(f"attention/{RIVAL}_")]
    return [name.removesuffix("_moved") for name in names if name.endswith("_moved")]
