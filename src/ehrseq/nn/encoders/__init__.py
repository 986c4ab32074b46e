"""Encoders: embedded steps to hidden states, the same for a history alone or padded in any batch; a file a family."""

from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.channelwise import ChannelwiseLSTMEncoder
from ehrseq.nn.encoders.conv import ConvLSTMEncoder
from ehrseq.nn.encoders.event_attention import EventAttentionEncoder
from ehrseq.nn.encoders.gru_d import GRUDEncoder
from ehrseq.nn.encoders.minimal import MinGRUEncoder, MinLSTMEncoder
from ehrseq.nn.encoders.recurrent import GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder
from ehrseq.nn.encoders.retain import RetainEncoder
from ehrseq.nn.encoders.t_lstm import TLSTMEncoder
from ehrseq.nn.encoders.transformer import LSTMTransformerEncoder, TransformerEncoder
from ehrseq.nn.encoders.xlstm import XLSTMEncoder

__all__ = [
    "ChannelwiseLSTMEncoder",
    "ConvLSTMEncoder",
    "Encoder",
    "EventAttentionEncoder",
    "GRUDEncoder",
    "GRUEncoder",
    "LSTMEncoder",
    "LSTMTransformerEncoder",
    "MinGRUEncoder",
    "MinLSTMEncoder",
    "RNNEncoder",
    "RecurrentEncoder",
    "RetainEncoder",
    "TLSTMEncoder",
    "TransformerEncoder",
    "XLSTMEncoder",
]
