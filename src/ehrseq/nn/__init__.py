"""Embeddings, recurrent encoders, poolings and heads: tensors and lengths in, tensors out."""

from ehrseq.nn.additive import Contributions, contributions
from ehrseq.nn.decayed_grid import DecayedGridEmbedding
from ehrseq.nn.embedding import Embedding, EventEmbedding, GridEmbedding, TimepointEmbedding
from ehrseq.nn.encoders import (
    ChannelwiseLSTMEncoder,
    ConvLSTMEncoder,
    Encoder,
    EventAttentionEncoder,
    GRUDEncoder,
    GRUEncoder,
    LSTMEncoder,
    LSTMTransformerEncoder,
    MinGRUEncoder,
    MinLSTMEncoder,
    RecurrentEncoder,
    RetainEncoder,
    RNNEncoder,
    TLSTMEncoder,
    TransformerEncoder,
    XLSTMEncoder,
)
from ehrseq.nn.gates import GateTrace, replay_gates
from ehrseq.nn.guided import GuidedModel, StepwiseEncoder, without_context
from ehrseq.nn.heads import Head
from ehrseq.nn.masking import attention_divergence, last_state, masked_softmax, reverse_by_length, step_mask
from ehrseq.nn.model import Prediction, SequenceInputs, SequenceModel, read_batch
from ehrseq.nn.next_values import NextValues
from ehrseq.nn.objectives import ForecastObjective, Objective, SeveralObjective, Told, make_objective
from ehrseq.nn.pooling import (
    AttentionPooling,
    LastPooling,
    MaxPooling,
    MeanPooling,
    MultiHeadAttentionPooling,
    Pooled,
    Pooling,
    SumPooling,
)
from ehrseq.nn.summary import SummaryNetwork

__all__ = [
    "AttentionPooling",
    "ChannelwiseLSTMEncoder",
    "Contributions",
    "ConvLSTMEncoder",
    "DecayedGridEmbedding",
    "Embedding",
    "Encoder",
    "EventAttentionEncoder",
    "EventEmbedding",
    "ForecastObjective",
    "GRUDEncoder",
    "GRUEncoder",
    "GateTrace",
    "GridEmbedding",
    "GuidedModel",
    "Head",
    "LSTMEncoder",
    "LSTMTransformerEncoder",
    "LastPooling",
    "MaxPooling",
    "MeanPooling",
    "MinGRUEncoder",
    "MinLSTMEncoder",
    "MultiHeadAttentionPooling",
    "NextValues",
    "Objective",
    "Pooled",
    "Pooling",
    "Prediction",
    "RNNEncoder",
    "RecurrentEncoder",
    "RetainEncoder",
    "SequenceInputs",
    "SequenceModel",
    "SeveralObjective",
    "StepwiseEncoder",
    "SumPooling",
    "SummaryNetwork",
    "TLSTMEncoder",
    "TimepointEmbedding",
    "Told",
    "TransformerEncoder",
    "XLSTMEncoder",
    "attention_divergence",
    "contributions",
    "last_state",
    "make_objective",
    "masked_softmax",
    "read_batch",
    "replay_gates",
    "reverse_by_length",
    "step_mask",
    "without_context",
]
