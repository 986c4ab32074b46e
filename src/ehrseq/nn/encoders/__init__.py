"""Encoders: embedded steps to hidden states, the same for a history alone or padded in any batch; a file a family."""

from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.channelwise import ChannelwiseLSTMEncoder
from ehrseq.nn.encoders.conv import ConvLSTMEncoder
from ehrseq.nn.encoders.recurrent import GRUEncoder, LSTMEncoder, RecurrentEncoder
from ehrseq.nn.encoders.retain import RetainEncoder

__all__ = [
    "ChannelwiseLSTMEncoder",
    "ConvLSTMEncoder",
    "Encoder",
    "GRUEncoder",
    "LSTMEncoder",
    "RecurrentEncoder",
    "RetainEncoder",
]
