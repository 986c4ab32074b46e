"""Embeddings, recurrent encoders, poolings and heads: tensors and lengths in, tensors out."""

from ehrseq.nn.embedding import Embedding, EventEmbedding, GridEmbedding, TimepointEmbedding
from ehrseq.nn.encoders import Encoder, GRUEncoder, LSTMEncoder, RecurrentEncoder
from ehrseq.nn.heads import Head
from ehrseq.nn.masking import last_state, masked_softmax, reverse_by_length, step_mask
from ehrseq.nn.model import Prediction, SequenceInputs, SequenceModel
from ehrseq.nn.objectives import Objective, make_objective
from ehrseq.nn.pooling import AttentionPooling, LastPooling, MaxPooling, MeanPooling, Pooled, Pooling
from ehrseq.nn.shortcut import SummaryShortcut

__all__ = [
    "AttentionPooling",
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
    "Objective",
    "Pooled",
    "Pooling",
    "Prediction",
    "RecurrentEncoder",
    "SequenceInputs",
    "SequenceModel",
    "SummaryShortcut",
    "TimepointEmbedding",
    "last_state",
    "make_objective",
    "masked_softmax",
    "reverse_by_length",
    "step_mask",
]
