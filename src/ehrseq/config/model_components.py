"""Which arguments the blocks of a model and its optimisers take; see `ehrseq.config.components`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ehrseq.config.component import Component, Probability, Share

GridFeature = Literal[
    "value", "pieces", "observed", "seen", "hours_since", "hours_in", "hours_in_pieces", "static_pieces"
]


class GridEmbedding(Component):
    """Arguments of the grid embedding that are not counted from the data."""

    grid_only: ClassVar[bool] = True

    projection: PositiveInt | None = None
    input_dropout: Probability = 0.0
    dropout: Probability = 0.0
    statics: Literal["steps", "none"] = "steps"
    features: tuple[GridFeature, ...] = ("value", "observed", "seen", "hours_since")


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


class EventAttentionEncoder(Component):
    """Arguments of attention over single events that are not counted from the data."""

    gives_attention: ClassVar[bool] = True
    grid_only: ClassVar[bool] = True

    hidden_size: PositiveInt = 64
    vector_size: PositiveInt = 32
    attention_size: PositiveInt = 32
    pieces: bool = True
    constant: bool = True
    half_life_hours: PositiveFloat = 6.0

    def looks_ahead(self) -> str:
        """Weights that sum to one over a history know all of it."""
        return " EventAttentionEncoder"


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
    thresholds: NonNegativeInt = 0
    added: bool = False
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
    extra_trees: bool = False
    threads: PositiveInt | None = None


class Adam(Component):
    """Arguments of Adam and AdamW."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    fused: bool = False
