"""What the gates of a trained LSTM or GRU do at each step; torch's fused kernels do not tell."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from ehrseq.errors import ConfigError
from ehrseq.nn.encoders import Encoder, GRUEncoder, LSTMEncoder, RecurrentEncoder
from ehrseq.nn.masking import reverse_by_length, step_mask

Direction = Literal["forward", "backward"]
# From W x_t + b, (B, G * H), U h_{t-1} + c, (B, G * H), and the states h and c before to all that a step has.
Step = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class GateTrace:
    """The gates of one layer in one direction, at the steps where the history has them, 0 on padding.

    Attributes:
        layer: Number of the layer, from 0.
        direction: "forward" or "backward".
        gates: By name, (B, T, H) each. Of an LSTM "forget", "input" and "output", 0 to 1, "cell", the candidate g, and
            "cell_state", c; of a GRU "update" and "reset", 0 to 1, and "candidate", n.
        hidden: Hidden states of this layer and direction, before normalisation and sums over layers, (B, T, H).
    """

    layer: int
    direction: Direction
    gates: dict[str, Tensor]
    hidden: Tensor


@torch.no_grad()
def replay_gates(encoder: Encoder, x: Tensor, lengths: Tensor) -> list[GateTrace]:
    """Read histories step by step with an encoder's weights, as it does in evaluation mode, and keep its gates.

    Args:
        encoder: An LSTM or a GRU; it is not changed.
        x: Embedded steps, padded on the right with anything finite, (B, T, D).
        lengths: Number of real steps of each history, (B,), integer.

    Returns:
        A trace for each layer, the lowest first, and in it for each direction, forward first.

    Raises:
        ConfigError: If the encoder is neither LSTM nor GRU.
    """
    if isinstance(encoder, LSTMEncoder):
        step: Step = _lstm_step
    elif isinstance(encoder, GRUEncoder):
        step = _gru_step
    else:
        raise ConfigError(f"encoder is a {type(encoder).__name__}; allowed are LSTMEncoder and GRUEncoder")
    encoder = deepcopy(encoder).eval()
    traces: list[GateTrace] = []
    for layer in range(encoder.num_layers):
        found = [_replay_layer(encoder, step, layer, direction, x, lengths) for direction in _directions(encoder)]
        x = encoder.finish_layer(layer, x, torch.cat([trace.hidden for trace in found], dim=-1))
        traces += found
    return traces


def _directions(encoder: RecurrentEncoder) -> tuple[Direction, ...]:
    return ("forward", "backward") if encoder.bidirectional else ("forward",)


def _replay_layer(
    encoder: RecurrentEncoder, step: Step, layer: int, direction: Direction, x: Tensor, lengths: Tensor
) -> GateTrace:
    """Read what a layer reads, (B, T, D), in one direction."""
    backward = direction == "backward"
    weights = encoder.torch_state()
    w, u, b, c = (
        weights[f"{name}_l{layer}{'_reverse' if backward else ''}"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    inputs = linear(reverse_by_length(x, lengths) if backward else x, w, b)
    state: Mapping[str, Tensor] = dict.fromkeys(("hidden", "cell_state"), x.new_zeros(len(x), encoder.hidden_size))
    steps = []
    for one in inputs.unbind(dim=1):
        before = state["hidden"]
        state = step(one, linear(before, u, c), before, state.get("cell_state", before))
        steps.append(state)
    padding = ~step_mask(lengths, x.shape[1]).unsqueeze(-1)
    traced = {}
    for name in state:
        whole = torch.stack([found[name] for found in steps], dim=1)
        traced[name] = (reverse_by_length(whole, lengths) if backward else whole).masked_fill(padding, 0.0)
    return GateTrace(layer, direction, hidden=traced.pop("hidden"), gates=traced)


def _lstm_step(inputs: Tensor, recurrent: Tensor, _: Tensor, cell_state: Tensor) -> dict[str, Tensor]:
    """One step, see `LSTMEncoder`; torch's order of gates is i, f, g, o."""
    i, f, g, o = (inputs + recurrent).chunk(4, dim=-1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    cell_state = f * cell_state + i * g
    hidden = o * torch.tanh(cell_state)
    return {"forget": f, "input": i, "output": o, "cell": g, "cell_state": cell_state, "hidden": hidden}


def _gru_step(inputs: Tensor, recurrent: Tensor, hidden: Tensor, _: Tensor) -> dict[str, Tensor]:
    """One step, see `GRUEncoder`; torch's order of gates is r, z, n."""
    (r, z, n), (ur, uz, un) = inputs.chunk(3, dim=-1), recurrent.chunk(3, dim=-1)
    r, z = torch.sigmoid(r + ur), torch.sigmoid(z + uz)
    n = torch.tanh(n + r * un)
    return {"update": z, "reset": r, "candidate": n, "hidden": (1 - z) * n + z * hidden}
