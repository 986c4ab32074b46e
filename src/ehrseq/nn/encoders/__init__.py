"""Encoders: embedded steps to hidden states, the same for a history alone or padded in any batch; a file a family."""

from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.gru_d import GRUDEncoder
from ehrseq.nn.encoders.recurrent import GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder
from ehrseq.nn.encoders.t_lstm import TLSTMEncoder

__all__ = ["Encoder", "GRUDEncoder", "GRUEncoder", "LSTMEncoder", "RNNEncoder", "RecurrentEncoder", "TLSTMEncoder"]
