"""Encoders: embedded steps to hidden states, the same for a history alone or padded in any batch; a file a family."""

from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.channelwise import ChannelwiseLSTMEncoder
from ehrseq.nn.encoders.conv import ConvLSTMEncoder
from ehrseq.nn.encoders.recurrent import GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder
from ehrseq.nn.encoders.retain import RetainEncoder
from ehrseq.nn.encoders.t_lstm import TLSTMEncoder

__all__ = [
    "ChannelwiseLSTMEncoder",
    "ConvLSTMEncoder",
    "Encoder",
    "GRUEncoder",
    "LSTMEncoder",
    "RNNEncoder",
    "RecurrentEncoder",
    "RetainEncoder",
    "TLSTMEncoder",
]
