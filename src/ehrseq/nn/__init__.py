"""Embeddings, recurrent encoders, poolings and heads: tensors and lengths in, tensors out."""

from ehrseq.nn.additive import Contributions, contributions
from ehrseq.nn.embedding import Embedding, EventEmbedding, GridEmbedding, TimepointEmbedding
from ehrseq.nn.encoders import (
    ChannelwiseLSTMEncoder,
    ConvLSTMEncoder,
    Encoder,
    GRUEncoder,
    LSTMEncoder,
    RecurrentEncoder,
    RetainEncoder,
)
from ehrseq.nn.heads import Head
from ehrseq.nn.masking import last_state, masked_softmax, reverse_by_length, step_mask
from ehrseq.nn.model import Prediction, SequenceInputs, SequenceModel
from ehrseq.nn.objectives import Objective, make_objective
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
from ehrseq.nn.shortcut import SummaryShortcut

__all__ = [
    "AttentionPooling",
    "ChannelwiseLSTMEncoder",
    "Contributions",
    "ConvLSTMEncoder",
    "Embedding",
    "Encoder",
    "EventEmbedding",
    "GRUEncoder",
    "GridEmbedding",
    "Head",
    "LSTMEncoder",
    "LastPooling",
    "MaxPooling",
    "MeanPooling",
    "MultiHeadAttentionPooling",
    "Objective",
    "Pooled",
    "Pooling",
    "Prediction",
    "RecurrentEncoder",
    "RetainEncoder",
    "SequenceInputs",
    "SequenceModel",
    "SumPooling",
    "SummaryShortcut",
    "TimepointEmbedding",
    "contributions",
    "last_state",
    "make_objective",
    "masked_softmax",
    "reverse_by_length",
    "step_mask",
]
