"""`_target_` nodes: what may be built, and which arguments the built-in blocks take.

A `_target_` runs code, so only classes of the packages listed here are accepted (`workflows.build` checks the resolved
object once more before it calls it). The built-in blocks have a schema each, which lets a wrong argument be named
without importing torch; a test holds these schemas against the constructors.
"""

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from ehrseq.errors import suggest

ALLOWED_PACKAGES = ("ehrseq", "torch.nn", "torch.optim", "pytorch_lightning", "lightning", "torchmetrics")
# Colon-separated packages whose classes a user trusts as `_target_`, e.g. EHRSEQ_ALLOWED_TARGETS=ourlab.models.
ALLOW_VARIABLE = "EHRSEQ_ALLOWED_TARGETS"

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]


def allowed_packages() -> tuple[str, ...]:
    """Packages whose classes a `_target_` may name: ours and those in `EHRSEQ_ALLOWED_TARGETS`."""
    extra = os.environ.get(ALLOW_VARIABLE, "")
    return ALLOWED_PACKAGES + tuple(name for name in extra.split(":") if name)


def is_allowed(target: str) -> bool:
    """Whether a dotted name lies in an allowed package."""
    return any(target.startswith(f"{package}.") for package in allowed_packages())


class Component(BaseModel):
    """A class to build, by its dotted name, and the arguments to build it with.

    Attributes:
        grid_only: Of embeddings and encoders, whether they read the representation `grid` only.
        gives_attention: Of encoders and poolings, whether they weigh the steps.
        at_steps: Of poolings, whether they can pool at every step what has come so far.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    grid_only: ClassVar[bool] = False
    gives_attention: ClassVar[bool] = False
    at_steps: ClassVar[bool] = False

    def looks_ahead(self) -> str:
        """Of encoders, what makes a step depend on later ones (`.bidirectional=true`); empty if nothing does."""
        return ""

    target: str = Field(alias="_target_")

    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments."""
        return {key: value for key, value in self.model_dump().items() if key != "target"}


class CustomComponent(Component):
    """A component without a schema of its own: its constructor checks the arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    # What is not known is not refused here.
    gives_attention: ClassVar[bool] = True
    at_steps: ClassVar[bool] = True


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


class GridEmbedding(Component):
    """Arguments of the grid embedding that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    projection: PositiveInt | None = None
    input_dropout: Probability = 0.0
    dropout: Probability = 0.0
    statics: Literal["steps", "none"] = "steps"
    features: tuple[Literal["value", "pieces", "observed", "seen", "hours_since", "hours_in"], ...] = (
        "value",
        "observed",
        "seen",
        "hours_since",
    )


class DecayedGridEmbedding(Component):
    """Arguments of the grid embedding with fading values that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    dropout: Probability = 0.0
    statics: Literal["steps", "none"] = "steps"
    time_unit_hours: PositiveFloat = 24.0


class CodeEmbedding(Component):
    """Arguments of the embeddings of codes that are not counted from the data."""

    size: PositiveInt = 64
    dropout: Probability = 0.0


class RecurrentEncoder(Component):
    """Arguments of the RNN, LSTM and GRU encoders."""

    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 1
    bidirectional: bool = False
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0
    residual: bool = False
    layer_norm: bool = False
    variational_dropout: Probability = 0.0

    def looks_ahead(self) -> str:
        """Reading backward sees later steps."""
        return ".bidirectional=true" if self.bidirectional else ""


class TLSTMEncoder(Component):
    """Arguments of the time-aware LSTM."""

    hidden_size: PositiveInt = 64
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0
    time_unit_hours: PositiveFloat = 1.0


class ChannelwiseLSTMEncoder(Component):
    """Arguments of the channel-wise LSTM that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    channel_size: PositiveInt = 8
    bidirectional_channels: bool = True
    hours_since: bool = False
    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 1
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0

    def looks_ahead(self) -> str:
        """Reading backward sees later steps."""
        return ".bidirectional_channels=true" if self.bidirectional_channels else ""


class ConvLSTMEncoder(Component):
    """Arguments of convolutions before an LSTM."""

    channels: PositiveInt = 64
    kernel_size: PositiveInt = 3
    num_conv_layers: PositiveInt = 2
    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 1
    dropout: Probability = 0.0
    conv_dropout: Probability = 0.0


class RetainEncoder(Component):
    """Arguments of RETAIN."""

    gives_attention: ClassVar[bool] = True

    hidden_size: PositiveInt = 64
    dropout: Probability = 0.0

    def looks_ahead(self) -> str:
        """Its nets read each history from its end."""
        return " RetainEncoder"


class MinimalEncoder(Component):
    """Arguments of the minimal LSTM and GRU encoders."""

    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 1
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0
    residual: bool = False
    layer_norm: bool = False


class XLSTMEncoder(Component):
    """Arguments of the extended LSTM encoder."""

    hidden_size: PositiveInt = 64
    blocks: Annotated[str, Field(pattern="^[ms]+$")] = "ms"
    num_heads: PositiveInt = 4
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0


class TransformerEncoder(Component):
    """Arguments of the transformer encoder."""

    hidden_size: PositiveInt = 64
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    expansion: PositiveInt = 4
    causal: bool = True
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0

    def looks_ahead(self) -> str:
        """Attention to every step sees later ones."""
        return "" if self.causal else ".causal=false"


class LSTMTransformerEncoder(TransformerEncoder):
    """Arguments of the encoder that is an LSTM with a transformer on it."""

    lstm_layers: PositiveInt = 1
    num_layers: PositiveInt = 1


class GRUDEncoder(Component):
    """Arguments of the GRU with decaying states that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    hidden_size: PositiveInt = 64
    dropout: Probability = 0.0
    input_dropout: Probability = 0.0
    time_unit_hours: PositiveFloat = 24.0


class PlainPooling(Component):
    """Poolings without arguments that weigh the steps."""

    gives_attention: ClassVar[bool] = True
    at_steps: ClassVar[bool] = True


class SumPooling(Component):
    """The sum, without arguments."""

    at_steps: ClassVar[bool] = True


class MaxPooling(Component):
    """Arguments of the maximum."""

    at_steps: ClassVar[bool] = True

    with_last: bool = False


class AttentionPooling(Component):
    """Arguments of additive attention."""

    gives_attention: ClassVar[bool] = True

    attention_size: PositiveInt = 32
    query: Literal["learned", "last"] = "last"
    with_last: bool = True
    with_max: bool = False


class MultiHeadAttentionPooling(Component):
    """Arguments of scaled dot-product attention."""

    gives_attention: ClassVar[bool] = True

    num_heads: PositiveInt = 4
    head_size: PositiveInt = 16
    query: Literal["learned", "last"] = "last"


class Head(Component):
    """Arguments of the head."""

    hidden_size: PositiveInt | None = None
    dropout: Probability = 0.0


class SummaryNetwork(Component):
    """Arguments of the summary network that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    hidden_size: PositiveInt = 64
    members: PositiveInt = 16
    windows: tuple[PositiveInt, ...] = (6, 12, 24)
    input_dropout: Probability = 0.0
    dropout: Probability = 0.0


class NextValues(Component):
    """Arguments of the forecast of the next values that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    weight: PositiveFloat = 1.0


class GradientBoosting(Component):
    """Arguments of the gradient-boosted trees."""

    num_leaves: Annotated[int, Field(ge=2)] = 7
    learning_rate: PositiveFloat = 0.02
    n_estimators: PositiveInt = 3000
    patience: PositiveInt = 100
    min_child_samples: NonNegativeInt = 50
    feature_fraction: Share = 0.2
    bagging_fraction: Share = 0.8
    reg_lambda: NonNegativeFloat = 10.0
    threads: PositiveInt | None = None


class Adam(Component):
    """Arguments of Adam and AdamW."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    fused: bool = False


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
