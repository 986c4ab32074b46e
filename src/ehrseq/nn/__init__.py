"""Embeddings, recurrent encoders, poolings and heads: tensors and lengths in, tensors out."""

from ehrseq.nn.decayed_grid import DecayedGridEmbedding
from ehrseq.nn.embedding import Embedding, EventEmbedding, GridEmbedding, TimepointEmbedding
from ehrseq.nn.encoders import Encoder, GRUDEncoder, GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder, TLSTMEncoder
from ehrseq.nn.gates import GateTrace, replay_gates
from ehrseq.nn.heads import BinaryHead
from ehrseq.nn.masking import last_state, masked_softmax, reverse_by_length, step_mask
from ehrseq.nn.model import Prediction, SequenceInputs, SequenceModel
from ehrseq.nn.pooling import AttentionPooling, LastPooling, MaxPooling, MeanPooling, Pooled, Pooling
from ehrseq.nn.shortcut import SummaryShortcut

__all__ = [
    "AttentionPooling",
    "BinaryHead",
    "DecayedGridEmbedding",
    "Embedding",
    "Encoder",
    "EventEmbedding",
    "GRUDEncoder",
    "GRUEncoder",
    "GateTrace",
    "GridEmbedding",
    "LSTMEncoder",
    "LastPooling",
    "MaxPooling",
    "MeanPooling",
    "Pooled",
    "Pooling",
    "Prediction",
    "RNNEncoder",
    "RecurrentEncoder",
    "SequenceInputs",
    "SequenceModel",
    "SummaryShortcut",
    "TLSTMEncoder",
    "TimepointEmbedding",
    "last_state",
    "masked_softmax",
    "replay_gates",
    "reverse_by_length",
    "step_mask",
]
