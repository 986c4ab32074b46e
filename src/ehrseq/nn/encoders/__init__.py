"""Encoders: embedded steps to hidden states, the same for a history alone or padded in any batch; a file a family."""

from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.minimal import MinGRUEncoder, MinLSTMEncoder
from ehrseq.nn.encoders.recurrent import GRUEncoder, LSTMEncoder, RecurrentEncoder
from ehrseq.nn.encoders.transformer import LSTMTransformerEncoder, TransformerEncoder
from ehrseq.nn.encoders.xlstm import XLSTMEncoder

__all__ = [
    "Encoder",
    "GRUEncoder",
    "LSTMEncoder",
    "LSTMTransformerEncoder",
    "MinGRUEncoder",
    "MinLSTMEncoder",
    "RecurrentEncoder",
    "TransformerEncoder",
    "XLSTMEncoder",
]
