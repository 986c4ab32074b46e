"""Heads: a pooled history to the outputs that the objective needs."""

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_probability
from ehrseq.nn.dropout import Dropout


class Head(nn.Module):
    """O outputs a history, linear or with one hidden ReLU layer.

    Args:
        input_size: H', the size of the pooled vector.
        outputs: O.
        num_statics: S, the number of static features to read beside the vector; with 0 they are not read.
        hidden_size: Size of the hidden layer; none by default.
        dropout: Dropout probability before each linear layer.

    Raises:
        ConfigError: If an argument is out of range.
    """

    def __init__(
        self,
        input_size: int,
        outputs: int = 1,
        num_statics: int = 0,
        hidden_size: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = check_count("input_size", input_size)
        self.outputs = check_count("outputs", outputs)
        self.num_statics = check_count("num_statics", num_statics, least=0)
        check_probability("dropout", dropout)
        size = input_size + num_statics
        layers: list[nn.Module] = [Dropout(dropout)]
        if hidden_size is not None:
            check_count("hidden_size", hidden_size)
            layers += [nn.Linear(size, hidden_size), nn.ReLU(), Dropout(dropout)]
            size = hidden_size
        self.layers = nn.Sequential(*layers, nn.Linear(size, outputs))

    @property
    def bias(self) -> nn.Parameter:
        """What each output begins with, (O,)."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last.bias

    @property
    def linear(self) -> nn.Linear | None:
        """The only layer, which reads [pooled, statics], or None if there is a hidden one."""
        last = self.layers[-1]
        return last if len(self.layers) == 2 and isinstance(last, nn.Linear) else None

    def keep(self, outputs: int) -> None:
        """Go on with the first outputs alone."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight = nn.Parameter(last.weight[:outputs].detach().clone())
        last.bias = nn.Parameter(last.bias[:outputs].detach().clone())
        last.out_features = self.outputs = outputs

    def forward(self, pooled: Tensor, statics: Tensor) -> Tensor:
        """Predict.

        Args:
            pooled: Pooled vectors, (B, H').
            statics: Normalised static features, (B, S); any shape if they are not read.

        Returns:
            (B, O).
        """
        if self.num_statics:
            pooled = torch.cat([pooled, statics.to(pooled.dtype)], dim=-1)
        output: Tensor = self.layers(pooled)
        return output
