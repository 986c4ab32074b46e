"""Dropout that does not cost more than what it drops."""

import torch
from torch import Tensor, nn

from ehrseq.nn.kernels import drop

_LEVELS = 256


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with a byte of randomness a number on the CPU instead of eight, and one pass where compiled.

    On a CPU torch draws a double for each number, which for the wide inputs of a grid takes longer than the recurrent
    net. Here eight numbers share a draw; the probability is rounded to 1/256 and what is kept is scaled to fit.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop numbers while training."""
        if not self.training or not self.p:
            return input
        levels = round(self.p * _LEVELS)
        if input.device.type != "cpu" or not levels or levels == _LEVELS:
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        scale = _LEVELS / (_LEVELS - levels)
        dropped = drop(input, draws, levels, scale)
        if dropped is not None:
            return dropped
        kept = draws.view(torch.uint8)[: input.numel()].view(input.shape) >= levels
        return input * kept.to(input.dtype).mul_(scale)
