"""All explainers by name, and how histories of any representation are cut for them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ehrseq.data import Events, Grid, Representation, Timepoints
from ehrseq.errors import ConfigError
from ehrseq.explain.base import Explainer
from ehrseq.explain.deep_lift import DeepLift
from ehrseq.explain.events import EventHistories, TimepointHistories
from ehrseq.explain.gradients import GradientXInput, IntegratedGradients, TemporalIntegratedGradients
from ehrseq.explain.grids import GridHistories
from ehrseq.explain.histories import Histories, Replacement
from ehrseq.explain.masks import ExtremalMask
from ehrseq.explain.occlusion import CodeOcclusion, EventOcclusion, Shapley, TimeOcclusion, WindowOcclusion
from ehrseq.explain.weights import (
    Attention,
    AttentionByEvent,
    AttentionXGradient,
    AttentionXValue,
    Contributions,
    Gates,
    has_attention,
    has_contributions,
    has_gates,
)
from ehrseq.nn import SequenceModel

ATTENTION = (Attention.name, AttentionXValue.name, AttentionByEvent.name, AttentionXGradient.name)


def make_explainers(
    names: Sequence[str],
    model: SequenceModel,
    steps: int,
    window_hours: float,
    replacement: Replacement = "carry",
) -> list[Explainer]:
    """Explainers of a network, without those that it offers nothing for (attention, contributions, gates).

    Args:
        names: Which, see `EXPLAINERS`.
        model: The trained network.
        steps: Points on the way of integrated gradients and DeepLIFT.
        window_hours: Length of the stretches of time that occlusion takes away.
        replacement: What occlusion leaves in place of what it takes away.

    Raises:
        ConfigError: If a name is unknown, or none is left.
    """
    made: dict[str, Callable[[], Explainer]] = {
        GradientXInput.name: lambda: GradientXInput(model),
        IntegratedGradients.name: lambda: IntegratedGradients(model, steps),
        TemporalIntegratedGradients.name: lambda: TemporalIntegratedGradients(model, steps=max(steps // 8, 1)),
        DeepLift.name: lambda: DeepLift(model, steps),
        EventOcclusion.name: lambda: EventOcclusion(model, replacement),
        CodeOcclusion.name: lambda: CodeOcclusion(model, replacement),
        WindowOcclusion.name: lambda: WindowOcclusion(model, window_hours, replacement),
        TimeOcclusion.name: lambda: TimeOcclusion(model, window_hours, replacement),
        Shapley.name: lambda: Shapley(model),
        ExtremalMask.name: lambda: ExtremalMask(model),
        Attention.name: lambda: Attention(model),
        AttentionXValue.name: lambda: AttentionXValue(model),
        AttentionByEvent.name: lambda: AttentionByEvent(model),
        AttentionXGradient.name: lambda: AttentionXGradient(model),
        Contributions.name: lambda: Contributions(model),
        Gates.name: lambda: Gates(model),
    }
    for name in names:
        if name not in made:
            raise ConfigError(f"explain.explainers: {name!r} is unknown; allowed are {', '.join(made)}")
    lacking = set() if has_attention(model) else set(ATTENTION)
    lacking |= set() if has_gates(model) else {Gates.name, DeepLift.name}
    lacking |= set() if has_contributions(model) else {Contributions.name}
    left = [name for name in dict.fromkeys(names) if name not in lacking]
    if not left:
        raise ConfigError(f"explain.explainers: this network has nothing that {', '.join(names)} could show")
    return [made[name]() for name in left]


def cut_histories(representation: Representation, samples: NDArray[np.int64]) -> Histories:
    """Cut histories whose parts can be taken out.

    Args:
        representation: Of whole histories.
        samples: (B,) sample numbers.

    Raises:
        ConfigError: If the representation has an output at every step.
    """
    if isinstance(representation, Grid):
        return GridHistories.cut(representation, samples)
    if isinstance(representation, Events):
        return EventHistories.cut(representation, samples)
    if isinstance(representation, Timepoints):
        return TimepointHistories.cut(representation, samples)
    raise ConfigError(f"{type(representation).__name__} cannot be explained; explanations are of whole histories")
