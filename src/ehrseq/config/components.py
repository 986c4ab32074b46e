"""Which arguments the built-in blocks take, by their `_target_`.

A schema each lets a wrong argument be named without importing torch; a test holds the schemas against the constructors.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from ehrseq.config.component import ALLOW_VARIABLE, Component, CustomComponent, is_allowed
from ehrseq.config.model_components import (
    Adam,
    AttentionPooling,
    ChannelwiseLSTMEncoder,
    CodeEmbedding,
    ConvLSTMEncoder,
    DecayedGridEmbedding,
    EventAttentionEncoder,
    GradientBoosting,
    GridEmbedding,
    GRUDEncoder,
    Head,
    LSTMTransformerEncoder,
    MaxPooling,
    MinimalEncoder,
    MultiHeadAttentionPooling,
    NextValues,
    PlainPooling,
    RecurrentEncoder,
    RetainEncoder,
    SummaryNetwork,
    SumPooling,
    TLSTMEncoder,
    TransformerEncoder,
    XLSTMEncoder,
)
from ehrseq.errors import suggest


class SyntheticSource(Component):
    """Arguments of the synthetic source."""

    n_subjects: Annotated[int, Field(ge=100)]
    seed: NonNegativeInt


class PhysioNet2012Source(Component):
    """Arguments of the PhysioNet 2012 source."""

    path: str | None
    outcomes: str | None = None


class MedsSource(Component):
    """Arguments of the MEDS source."""

    path: str | None


class PhysioNet2019Source(Component):
    """Arguments of the PhysioNet 2019 source."""

    path: str | None


class TablesSource(Component):
    """Arguments of the tables source."""

    path: str | None
    description: str | None


class OmopSource(Component):
    """Arguments of the OMOP source."""

    path: str | None
    vocabulary: str | None = None


class SourceLabels(Component):
    """Arguments of the source's own labels."""

    of_any_task: bool = False


class LabelFiles(Component):
    """Arguments of labels in files."""

    path: str


class AcesLabels(Component):
    """Arguments of an ACES task."""

    path: str
    predicates: str | None = None


Codes = str | tuple[str, ...]


class WindowLabels(Component):
    """Arguments of a task in the language of windows."""

    start: Codes
    end: Codes = ()
    predict: Literal["start", "end"] = "end"
    delay_hours: NonNegativeFloat = 0.0
    every_hours: PositiveFloat | None = None
    outcome: Codes = ()
    within: Literal["window", "horizon", "next_window"] = "horizon"
    horizon_hours: PositiveFloat | None = None
    longer_than_hours: PositiveFloat | None = None
    exclude: Codes = ()
    follow_up: Literal["require", "assume"] = "assume"
    gives: Literal["outcome", "hours_left", "time_to_outcome"] = "outcome"


class JoinedLabels(Component):
    """Label makers by name, each a component of its own."""

    parts: Annotated[dict[Annotated[str, Field(min_length=1)], "AnyComponent"], Field(min_length=2)]

    def arguments(self) -> dict[str, Any]:
        """None: the parts are components, which are built first and given."""
        return {}


COMPONENTS: dict[str, type[Component]] = {
    "ehrseq.sources.synthetic.SyntheticSource": SyntheticSource,
    "ehrseq.sources.physionet2012.PhysioNet2012Source": PhysioNet2012Source,
    "ehrseq.sources.meds.MedsSource": MedsSource,
    "ehrseq.sources.physionet2019.PhysioNet2019Source": PhysioNet2019Source,
    "ehrseq.sources.tables.TablesSource": TablesSource,
    "ehrseq.sources.omop.OmopSource": OmopSource,
    "ehrseq.tasks.SourceLabels": SourceLabels,
    "ehrseq.tasks.LabelFiles": LabelFiles,
    "ehrseq.tasks.AcesLabels": AcesLabels,
    "ehrseq.tasks.WindowLabels": WindowLabels,
    "ehrseq.tasks.JoinedLabels": JoinedLabels,
    "ehrseq.nn.GridEmbedding": GridEmbedding,
    "ehrseq.nn.DecayedGridEmbedding": DecayedGridEmbedding,
    "ehrseq.nn.EventEmbedding": CodeEmbedding,
    "ehrseq.nn.TimepointEmbedding": CodeEmbedding,
    "ehrseq.nn.RNNEncoder": RecurrentEncoder,
    "ehrseq.nn.LSTMEncoder": RecurrentEncoder,
    "ehrseq.nn.GRUEncoder": RecurrentEncoder,
    "ehrseq.nn.RetainEncoder": RetainEncoder,
    "ehrseq.nn.EventAttentionEncoder": EventAttentionEncoder,
    "ehrseq.nn.ChannelwiseLSTMEncoder": ChannelwiseLSTMEncoder,
    "ehrseq.nn.ConvLSTMEncoder": ConvLSTMEncoder,
    "ehrseq.nn.TLSTMEncoder": TLSTMEncoder,
    "ehrseq.nn.MinLSTMEncoder": MinimalEncoder,
    "ehrseq.nn.MinGRUEncoder": MinimalEncoder,
    "ehrseq.nn.XLSTMEncoder": XLSTMEncoder,
    "ehrseq.nn.TransformerEncoder": TransformerEncoder,
    "ehrseq.nn.LSTMTransformerEncoder": LSTMTransformerEncoder,
    "ehrseq.nn.GRUDEncoder": GRUDEncoder,
    "ehrseq.nn.LastPooling": PlainPooling,
    "ehrseq.nn.MeanPooling": PlainPooling,
    "ehrseq.nn.SumPooling": SumPooling,
    "ehrseq.nn.MaxPooling": MaxPooling,
    "ehrseq.nn.AttentionPooling": AttentionPooling,
    "ehrseq.nn.Head": Head,
    "ehrseq.nn.MultiHeadAttentionPooling": MultiHeadAttentionPooling,
    "ehrseq.nn.SummaryNetwork": SummaryNetwork,
    "ehrseq.nn.NextValues": NextValues,
    "ehrseq.baselines.GradientBoosting": GradientBoosting,
    "torch.optim.Adam": Adam,
    "torch.optim.AdamW": Adam,
}


def _choose(value: Any, _handler: Any) -> Component:
    """Validate a node with the schema of its target."""
    if isinstance(value, Component):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("_target_"), str):
        raise PydanticCustomError("target", "needs a _target_, the dotted name of a class")
    target = value["_target_"]
    schema = COMPONENTS.get(target)
    if schema is None:
        package = target.rpartition(".")[0]
        if (
            package in ("ehrseq.nn", "ehrseq.tasks", "ehrseq.baselines")
            or target.startswith("ehrseq.sources.")
            or not is_allowed(target)
        ):
            hint = suggest(target, list(COMPONENTS))
            raise PydanticCustomError(
                "target",
                "_target_ {target} is not allowed; {hint} (trust more packages with {variable})",
                {"target": repr(target), "hint": hint, "variable": ALLOW_VARIABLE},
            )
        schema = CustomComponent
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        # Raised anew by pydantic with the location of this node in front.
        raise error


AnyComponent = Annotated[SerializeAsAny[Component], WrapValidator(_choose)]
JoinedLabels.model_rebuild()
