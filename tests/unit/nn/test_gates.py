"""Gates that are read out are those that made the hidden states."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.errors import ConfigError
from ehrseq.nn import GateTrace, GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder, replay_gates

D, H, T = 5, 4, 7
LENGTHS = torch.tensor([3, 7, 1, 7, 0])
GATES = {
    LSTMEncoder: {"forget", "input", "output", "cell", "cell_state"},
    GRUEncoder: {"update", "reset", "candidate"},
}

each_kind = pytest.mark.parametrize("kind", list(GATES))
each_direction = pytest.mark.parametrize("bidirectional", [False, True])
each_depth = pytest.mark.parametrize("num_layers", [1, 3])


def build(kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool, **options: Any) -> RecurrentEncoder:
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers, bidirectional, **options).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)
    return encoder


def random_steps() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(len(LENGTHS), T, D, dtype=torch.float64)


def top(traces: list[GateTrace]) -> Tensor:
    """What the highest layer gives."""
    return torch.cat([trace.hidden for trace in traces if trace.layer == traces[-1].layer], dim=-1)


@each_kind
@each_depth
@each_direction
@pytest.mark.parametrize("options", [{}, {"dropout": 0.5, "input_dropout": 0.5}, {"variational_dropout": 0.5}])
def test_replay_gives_the_hidden_states(
    kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool, options: dict[str, Any]
) -> None:
    encoder, x = build(kind, num_layers, bidirectional, **options), random_steps()
    traces = replay_gates(encoder, x, LENGTHS)
    assert encoder.training
    assert torch.allclose(top(traces), encoder.eval()(x, LENGTHS), rtol=0, atol=1e-10)
    directions = ["forward", "backward"][: 1 + bidirectional]
    expected = [(layer, direction) for layer in range(num_layers) for direction in directions]
    assert [(trace.layer, trace.direction) for trace in traces] == expected


@each_kind
@each_direction
def test_replay_follows_sums_over_layers_and_normalisation(kind: type[RecurrentEncoder], bidirectional: bool) -> None:
    encoder, x = build(kind, 3, bidirectional, residual=True, layer_norm=True), random_steps()
    traces = replay_gates(encoder, x, LENGTHS)
    for layer in range(3):
        hidden = torch.cat([trace.hidden for trace in traces if trace.layer == layer], dim=-1)
        x = encoder.finish_layer(layer, x, hidden)
    real = torch.arange(T) < LENGTHS.unsqueeze(1)
    assert torch.allclose(x[real], encoder(random_steps(), LENGTHS)[real], rtol=0, atol=1e-10)


@each_kind
@each_depth
@each_direction
def test_gates_lie_where_the_history_has_them(
    kind: type[RecurrentEncoder], num_layers: int, bidirectional: bool
) -> None:
    for trace in replay_gates(build(kind, num_layers, bidirectional), random_steps(), LENGTHS):
        assert trace.gates.keys() == GATES[kind]
        for name, gate in trace.gates.items():
            assert gate.shape == (len(LENGTHS), T, H)
            for row, length in enumerate(LENGTHS.tolist()):
                assert gate[row, length:].count_nonzero() == 0
            real = gate[torch.arange(T) < LENGTHS.unsqueeze(1)]
            low = 0.0 if name in ("forget", "input", "output", "update", "reset") else -1.0
            if name != "cell_state":
                assert low <= real.min() < real.max() <= 1


@each_direction
def test_lstm_states_follow_from_its_gates(bidirectional: bool) -> None:
    for trace in replay_gates(build(LSTMEncoder, 2, bidirectional), random_steps(), LENGTHS):
        gates = trace.gates
        assert torch.allclose(trace.hidden, gates["output"] * torch.tanh(gates["cell_state"]), rtol=0, atol=1e-12)
        for row, length in enumerate(LENGTHS.tolist()):
            order = range(length) if trace.direction == "forward" else reversed(range(length))
            c = torch.zeros(H, dtype=torch.float64)
            for t in order:
                c = gates["forget"][row, t] * c + gates["input"][row, t] * gates["cell"][row, t]
                assert torch.allclose(gates["cell_state"][row, t], c, rtol=0, atol=1e-12)


@each_direction
def test_gru_states_follow_from_its_gates(bidirectional: bool) -> None:
    for trace in replay_gates(build(GRUEncoder, 2, bidirectional), random_steps(), LENGTHS):
        z, n = trace.gates["update"], trace.gates["candidate"]
        for row, length in enumerate(LENGTHS.tolist()):
            order = range(length) if trace.direction == "forward" else reversed(range(length))
            h = torch.zeros(H, dtype=torch.float64)
            for t in order:
                h = (1 - z[row, t]) * n[row, t] + z[row, t] * h
                assert torch.allclose(trace.hidden[row, t], h, rtol=0, atol=1e-12)


def test_an_open_reset_gate_is_told_from_a_closed_one() -> None:
    encoder = build(GRUEncoder, 1, False)
    state = encoder.torch_state()
    state["bias_ih_l0"][:H] = 50.0
    state["bias_ih_l0"][H : 2 * H] = -50.0
    encoder.load_torch_state(state)
    gates = replay_gates(encoder, random_steps(), LENGTHS)[0].gates
    assert gates["reset"][1].min() > 0.99
    assert gates["update"].max() < 0.01


def test_other_encoders_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^encoder is a RNNEncoder; allowed are LSTMEncoder and GRUEncoder$"):
        replay_gates(RNNEncoder(D, H), torch.zeros(1, 2, D), torch.tensor([2]))
