"""Grid steps whose filled values fade back to the mean."""

from typing import Literal

import torch
from torch import Tensor, nn

from ehrseq.nn.checks import check_choice, check_count, check_positive, check_probability
from ehrseq.nn.dropout import Dropout
from ehrseq.nn.elapsed import hours_since_previous
from ehrseq.nn.embedding import Embedding


class DecayedGridEmbedding(Embedding):
    """Values that fade while they are not measured, what was observed, and the statics: the inputs of GRU-D.

    Che et al. (2018), "Recurrent Neural Networks for Multivariate Time Series with Missing Values", for each feature:
    gamma = exp(-relu(w delta + b));  x = m x_t + (1 - m) (gamma x_last + (1 - gamma) mean), where m says whether it was
    observed, delta is the time since it was last observed before this step, and the mean is 0 as values are normalised.

    b starts at 0 and w at a tenth: one unit of time takes a tenth of a value.

    Args:
        num_features: F, the number of features of the grid.
        num_statics: S, the number of static features.
        dropout: Dropout probability of the output.
        statics: "steps" repeats the statics at every step, "none" leaves them out (the head may still read them).
        time_unit_hours: Hours that count as 1 in delta.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reads = ("values", "observed", "hours_since", "hours_before", "statics")

    def __init__(
        self,
        num_features: int,
        num_statics: int,
        dropout: float = 0.0,
        statics: Literal["steps", "none"] = "steps",
        time_unit_hours: float = 24.0,
    ) -> None:
        super().__init__()
        self.num_features = check_count("num_features", num_features)
        self.num_statics = check_count("num_statics", num_statics, least=0)
        self.with_statics = check_choice("statics", statics, ("steps", "none")) == "steps" and num_statics > 0
        self.time_unit_hours = check_positive("time_unit_hours", time_unit_hours)
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.weight = nn.Parameter(torch.full((num_features,), 0.1))
        self.bias = nn.Parameter(torch.zeros(num_features))

    @property
    def output_size(self) -> int:
        """D, the size of an embedded step."""
        return 2 * self.num_features + (self.num_statics if self.with_statics else 0)

    def forward(  # type: ignore[override]
        self, values: Tensor, observed: Tensor, hours_since: Tensor, hours_before: Tensor, statics: Tensor
    ) -> Tensor:
        """Embed each step; no step sees a later one.

        Args:
            values: Normalised values, the last one where nothing was measured, (B, T, F).
            observed: 1 where the value was measured in this step, (B, T, F).
            hours_since: Hours since the feature was last seen, (B, T, F).
            hours_before: Hours from each step to the prediction, (B, T).
            statics: Normalised static features, (B, S).

        Returns:
            Embedded steps, (B, T, D).
        """
        delta = hours_since_previous(hours_since, hours_before).to(values.dtype)
        # Sign and unit are on the side of the weights, which are few.
        weight = self.weight / -self.time_unit_hours
        gamma = torch.exp(torch.addcmul(-self.bias, weight, delta).clamp(max=0.0))
        seen = observed.to(values.dtype)
        parts = [values * torch.lerp(gamma, torch.ones_like(gamma), seen), seen]
        if self.with_statics:
            parts.append(statics.to(values.dtype).unsqueeze(1).expand(-1, values.shape[1], -1))
        embedded: Tensor = self.dropout(torch.cat(parts, dim=-1))
        return embedded
