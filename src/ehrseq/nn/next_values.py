"""Forecasting the next values as a second thing to learn, so that hidden states learn from every measurement."""

from torch import Tensor, nn
from torch.nn import functional

from ehrseq.errors import ConfigError
from ehrseq.nn.checks import check_count


class NextValues(nn.Module):
    """A linear forecast of each step's values from the hidden state before it, which only training asks for.

    A few hundred outcomes say little about how a history goes on; hundreds of thousands of measurements say much (Che
    et al. 2018 impute, Dai and Le 2015, "Semi-supervised Sequence Learning", predict what comes next).

    Args:
        num_features: F, the number of features of the grid.
        input_size: H, the size of a hidden state.
        weight: Share of its loss in the sum.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed")

    def __init__(self, num_features: int, input_size: int, weight: float = 1.0) -> None:
        super().__init__()
        if not weight > 0:
            raise ConfigError(f"weight is {weight!r}; allowed is more than 0")
        self.weight = weight
        self.linear = nn.Linear(check_count("input_size", input_size), check_count("num_features", num_features))

    def forward(self, hidden: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """The weighted mean smooth absolute error of what was observed, a scalar; 0 where nothing was.

        Args:
            hidden: Hidden states of a net that never looks ahead, (B, T, H).
            values: Normalised values, (B, T, F).
            observed: 1 where the value was measured in this step, 0 on padding, (B, T, F).
        """
        forecast = self.linear(hidden[:, :-1])
        there = observed[:, 1:].to(forecast.dtype)
        errors = functional.smooth_l1_loss(forecast, values[:, 1:].to(forecast.dtype), reduction="none")
        loss: Tensor = self.weight * (errors * there).sum() / there.sum().clamp(min=1)
        return loss
