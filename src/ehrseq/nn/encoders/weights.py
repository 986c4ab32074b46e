"""How weights of recurrent nets start: gate by gate, as if each gate had a matrix of its own."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def draw_input_weight(weight: Tensor, hidden_size: int) -> None:
    """Draw the weights that read the input, Glorot uniform (Glorot and Bengio 2010).

    Args:
        weight: All gates, one under the other, (G * H, D).
        hidden_size: H.
    """
    for gate in weight.chunk(len(weight) // hidden_size):
        nn.init.xavier_uniform_(gate)


@torch.no_grad()
def draw_recurrent_weight(weight: Tensor, hidden_size: int) -> None:
    """Draw the weights that read the state before, orthogonal (Saxe et al. 2014).

    Args:
        weight: All gates, one under the other, (G * H, H).
        hidden_size: H.
    """
    for gate in weight.chunk(len(weight) // hidden_size):
        nn.init.orthogonal_(gate)
