"""Causal convolutions over time before an LSTM."""

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.encoders.base import Encoder
from ehrseq.nn.encoders.recurrent import LSTMEncoder
from ehrseq.nn.masking import step_mask


class ConvLSTMEncoder(Encoder):
    """Causal temporal convolutions, then an LSTM (the order of Sainath et al. 2015, "CLDNN").

    Convolutions find short patterns, the LSTM remembers them. Each layer sees a step and those before it only, with
    zeros before the first, and is added to what it read (Bai et al. 2018, "An Empirical Evaluation of Generic
    Convolutional and Recurrent Networks for Sequence Modeling"):

    y_t = x_t + dropout(relu(b + sum_k W_k x_{t-k})), k from 0 to below `kernel_size`;  h = LSTM(y).

    Where a layer changes the size, x_t is projected to the new one, without bias. Not the convolutional LSTM of Shi et
    al. (2015), whose gates are convolutions over space.

    Args:
        input_size: D, the size of an embedded step.
        channels: Size of a step after each convolution.
        kernel_size: Number of steps that a convolution sees.
        num_conv_layers: Number of convolutions.
        hidden_size: H, the size of the LSTM's state.
        num_layers: Number of layers of the LSTM.
        dropout: Dropout probability of the outputs of each layer of the LSTM.
        conv_dropout: Dropout probability of each convolution's output, before it is added.

    Raises:
        ConfigError: If an argument is out of range.
    """

    causal = True

    def __init__(
        self,
        input_size: int,
        channels: int = 64,
        kernel_size: int = 3,
        num_conv_layers: int = 2,
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        conv_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.kernel_size = check_count("kernel_size", kernel_size)
        check_count("channels", channels)
        sizes = [input_size] + [channels] * (check_count("num_conv_layers", num_conv_layers) - 1)
        self.convolutions = nn.ModuleList(nn.Conv1d(size, channels, kernel_size) for size in sizes)
        self.projection = nn.Linear(input_size, channels, bias=False) if input_size != channels else None
        self.conv_dropout = Dropout(check_probability("conv_dropout", conv_dropout))
        self.lstm = LSTMEncoder(channels, hidden_size, num_layers, dropout=dropout)
        self.output_size = self.lstm.output_size
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the weights before the LSTM anew: convolutions for ReLU (He et al. 2015), projection Glorot uniform."""
        for name, parameter in self.convolutions.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            else:
                nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection.weight)

    def forward(self, x: Tensor, lengths: Tensor, **_: Tensor) -> Tensor:
        """Read each history: (B, T, D) and (B,) to (B, T, H), see `Encoder.forward`."""
        padding = ~step_mask(lengths, x.shape[1]).unsqueeze(1)
        x = x.transpose(1, 2).masked_fill(padding, 0.0)
        for layer, convolution in enumerate(self.convolutions):
            found: Tensor = convolution(nn.functional.pad(x, (self.kernel_size - 1, 0)))
            if layer == 0 and self.projection is not None:
                x = self.projection(x.transpose(1, 2)).transpose(1, 2)
            x = (x + self.conv_dropout(torch.relu(found))).masked_fill(padding, 0.0)
        hidden: Tensor = self.lstm(x.transpose(1, 2), lengths)
        return hidden
