"""Embeddings, recurrent encoders, poolings and heads: tensors and lengths in, tensors out."""

from ehrseq.nn.embedding import Embedding, EventEmbedding, GridEmbedding, TimepointEmbedding
from ehrseq.nn.encoders import (
    Encoder,
    GRUEncoder,
    LSTMEncoder,
    LSTMTransformerEncoder,
    MinGRUEncoder,
    MinLSTMEncoder,
    RecurrentEncoder,
    TransformerEncoder,
    XLSTMEncoder,
)
from ehrseq.nn.heads import BinaryHead
from ehrseq.nn.masking import last_state, masked_softmax, reverse_by_length, step_mask
from ehrseq.nn.model import Prediction, SequenceInputs, SequenceModel
from ehrseq.nn.pooling import AttentionPooling, LastPooling, MaxPooling, MeanPooling, Pooled, Pooling
from ehrseq.nn.shortcut import SummaryShortcut

__all__ = [
    "AttentionPooling",
    "BinaryHead",
    "Embedding",
    "Encoder",
    "EventEmbedding",
    "GRUEncoder",
    "GridEmbedding",
    "LSTMEncoder",
    "LSTMTransformerEncoder",
    "LastPooling",
    "MaxPooling",
    "MeanPooling",
    "MinGRUEncoder",
    "MinLSTMEncoder",
    "Pooled",
    "Pooling",
    "Prediction",
    "RecurrentEncoder",
    "SequenceInputs",
    "SequenceModel",
    "SummaryShortcut",
    "TimepointEmbedding",
    "TransformerEncoder",
    "XLSTMEncoder",
    "last_state",
    "masked_softmax",
    "reverse_by_length",
    "step_mask",
]
