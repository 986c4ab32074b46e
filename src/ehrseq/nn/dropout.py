"""Dropout that does not cost more than what it drops."""

import torch
from torch import Tensor, nn

_LEVELS = 256


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with a byte of randomness a number on the CPU instead of eight.

    On a CPU torch draws a double for each number, which for the wide inputs of a grid takes longer than the recurrent
    net. Here eight numbers share a draw; the probability is rounded to 1/256 and what is kept is scaled to fit.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop numbers while training."""
        levels = round(self.p * _LEVELS)
        if input.device.type != "cpu" or not self.training or not levels or levels == _LEVELS:
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: input.numel()].view(input.shape) >= levels
        # The scale goes into the mask first: of either way, the multiplication of `input` is all that is left.
        return input * kept.to(input.dtype).mul_(_LEVELS / (_LEVELS - levels))
