"""A shortcut from the inputs to the outputs, beside the recurrent way."""

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_count, check_probability
from ehrseq.nn.masking import last_state, step_mask


class SummaryShortcut(nn.Module):
    """A small network on a summary of each feature over the whole history; its outputs are added to the recurrent ones.

    The summary of a feature is its mean, last, largest and smallest filled value and log(1 + how often it was
    observed). With few histories a recurrent net spends them on finding just these again; given them, it learns what
    order and timing add (the "wide" way of Cheng et al. 2016, "Wide & Deep Learning for Recommender Systems").

    Args:
        num_features: F, the number of features of the grid.
        num_statics: S, the number of static features.
        outputs: O, as many as the head has.
        hidden_size: Size of the hidden ReLU layer.
        input_dropout: Dropout probability of the summary.
        dropout: Dropout probability of the hidden layer.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "statics", "lengths")

    def __init__(
        self,
        num_features: int,
        num_statics: int,
        outputs: int = 1,
        hidden_size: int = 32,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        size = check_count("num_features", num_features) * 5 + check_count("num_statics", num_statics, least=0)
        self.layers = nn.Sequential(
            nn.Dropout(check_probability("input_dropout", input_dropout)),
            nn.Linear(size, check_count("hidden_size", hidden_size)),
            nn.ReLU(),
            nn.Dropout(check_probability("dropout", dropout)),
            nn.Linear(hidden_size, check_count("outputs", outputs), bias=False),
        )

    def forward(self, values: Tensor, observed: Tensor, statics: Tensor, lengths: Tensor) -> Tensor:
        """The shortcut's part of the outputs.

        Args:
            values: Normalised values with the gaps filled, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F).
            statics: Normalised static features, (B, S).
            lengths: Number of real steps of each history, (B,).

        Returns:
            (B, O).
        """
        real = step_mask(lengths, values.shape[1]).unsqueeze(-1)
        steps = lengths.clamp(min=1).unsqueeze(-1).to(values.dtype)
        most = torch.finfo(values.dtype).max
        return self._read(
            (values * real).sum(1) / steps,
            last_state(values, lengths),
            values.masked_fill(~real, -most).amax(1),
            values.masked_fill(~real, most).amin(1),
            (observed * real).sum(1),
            statics,
        )

    def steps(self, values: Tensor, observed: Tensor, statics: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG002
        """The shortcut's part of the outputs at each step, from what has come so far; the arguments of `forward`.

        Returns:
            (B, T, O); anything on padding.
        """
        count = torch.arange(1, values.shape[1] + 1, device=values.device)[:, None]
        return self._read(
            values.cumsum(1) / count,
            values,
            values.cummax(1).values,
            values.cummin(1).values,
            observed.cumsum(1),
            statics.unsqueeze(1).expand(-1, values.shape[1], -1),
        )

    def _read(self, mean: Tensor, last: Tensor, high: Tensor, low: Tensor, seen: Tensor, statics: Tensor) -> Tensor:
        summary = [mean, last, high, low, torch.log1p(seen) / 2, statics.to(mean.dtype)]
        output: Tensor = self.layers(torch.cat(summary, dim=-1))
        return output
