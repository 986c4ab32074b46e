"""The sections of a run's configuration that say what learns: a network, trees, or both."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag

from ehrseq.config.components import AnyComponent
from ehrseq.config.section import Section


class Model(Section):
    """The blocks of the network, built in this order: steps in, the outputs that the target needs out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    embedding: AnyComponent
    encoder: AnyComponent
    pooling: AnyComponent
    head: AnyComponent
    summary: AnyComponent | None
    next_values: AnyComponent | None
    hidden_dropout: Annotated[float, Field(ge=0, lt=1)]


class SummaryConfig(Section):
    """How a history becomes one row of numbers: over all of it, and over its last hours."""

    windows_hours: tuple[PositiveFloat, ...]
    max_features: PositiveInt | None


class Trees(Section):
    """Gradient-boosted trees in place of a network: a summary of each history in, its predictions out."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    summary: SummaryConfig
    booster: AnyComponent


class Copies(Section):
    """Changed copies of the histories of `train`, see `ehrseq.data.copies`."""

    number: NonNegativeInt
    partners: PositiveInt
    exchanged: Annotated[float, Field(ge=0, le=1)]
    left_out: Annotated[float, Field(ge=0, lt=1)]
    noise: Annotated[float, Field(ge=0)]


class Teacher(Section):
    """Trees that tell the network of histories that they have not seen, see `ehrseq.workflows.teacher`."""

    match: Literal["risks", "logits"]
    weight: Annotated[float, Field(gt=0, le=1)]
    grown_on: Literal["others", "all"]
    folds: Annotated[int, Field(ge=2)]
    repeats: PositiveInt
    copies: Copies
    summary: SummaryConfig
    booster: AnyComponent
    other: AnyComponent | None


class Blend(Section):
    """Trees whose predictions are mixed into those of the network, see `ehrseq.workflows.scorers.BlendScorer`."""

    weight: Annotated[float, Field(gt=0, lt=1)]
    summary: SummaryConfig
    booster: AnyComponent


def _kind_of_model(value: Any) -> str:
    """Which branch of `AnyModel` a model is of."""
    is_trees = "booster" in value if isinstance(value, dict) else isinstance(value, Trees)
    return "trees" if is_trees else "network"


AnyModel = Annotated[
    Annotated[Model, Tag("network")] | Annotated[Trees, Tag("trees")],
    Discriminator(_kind_of_model),
]
