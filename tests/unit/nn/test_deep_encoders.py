"""What helps deep encoders: sums over layers, normalisation, one dropout mask a history."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.nn import GRUEncoder, LSTMEncoder, RecurrentEncoder, RNNEncoder

D, H = 5, 4
LENGTHS = torch.tensor([3, 7, 1, 7])
OPTIONS: list[dict[str, Any]] = [
    {"residual": True},
    {"layer_norm": True},
    {"residual": True, "layer_norm": True},
    {"variational_dropout": 0.5},
    {"residual": True, "layer_norm": True, "variational_dropout": 0.3, "dropout": 0.2},
]
KINDS = [RNNEncoder, LSTMEncoder, GRUEncoder]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_direction = pytest.mark.parametrize("bidirectional", [False, True])
each_option = pytest.mark.parametrize("options", OPTIONS, ids="-".join)


def random_steps() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(len(LENGTHS), 7, D, dtype=torch.float64)


def build(kind: type[RecurrentEncoder], bidirectional: bool, **options: Any) -> RecurrentEncoder:
    torch.manual_seed(0)
    encoder = kind(D, H, num_layers=3, bidirectional=bidirectional, **options).double()
    for parameter in encoder.norms.parameters():
        nn.init.normal_(parameter)
    return encoder


def layer_by_layer(encoder: RecurrentEncoder, x: Tensor) -> Tensor:
    """What the encoder should give for one history, (T, D), by torch's module of one layer at a time."""
    weights = encoder.torch_state()
    for layer in range(3):
        net = encoder.cell(x.shape[1], H, batch_first=True, bidirectional=encoder.bidirectional).double()
        net.load_state_dict({name: weights[name.replace("_l0", f"_l{layer}")] for name in net.state_dict()})
        hidden = net(x.unsqueeze(0))[0].squeeze(0)
        if encoder.layer_norm:
            norm = encoder.norms[layer]
            spread = (hidden.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
            hidden = (hidden - hidden.mean(dim=1, keepdim=True)) / spread * norm.weight + norm.bias
        x = x + hidden if encoder.residual and layer else hidden
    return x


@each_kind
@each_direction
@each_option
def test_outputs_are_those_of_one_layer_after_the_other(
    kind: type[RecurrentEncoder], bidirectional: bool, options: dict[str, Any]
) -> None:
    encoder, x = build(kind, bidirectional, **options).eval(), random_steps()
    hidden = encoder(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.allclose(hidden[row, :length], layer_by_layer(encoder, x[row, :length]), rtol=0, atol=1e-10)
        assert hidden[row, length:].count_nonzero() == 0


@each_kind
@each_direction
@each_option
def test_padding_and_company_change_nothing(
    kind: type[RecurrentEncoder], bidirectional: bool, options: dict[str, Any]
) -> None:
    encoder, x = build(kind, bidirectional, **options).eval(), random_steps()
    hidden = encoder(x, LENGTHS)
    longer = torch.cat([x, torch.full((len(x), 4, D), -7.0)], dim=1)
    assert torch.allclose(encoder(longer, LENGTHS)[:, :7], hidden, rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(encoder(x[order], LENGTHS[order]), hidden[order], rtol=0, atol=1e-12)


@each_kind
@each_option
def test_causal_encoders_never_see_later_steps(kind: type[RecurrentEncoder], options: dict[str, Any]) -> None:
    encoder, x = build(kind, False, **options).eval(), random_steps().requires_grad_()
    encoder(x, LENGTHS)[:, 3].sum().backward()
    assert encoder.causal
    assert x.grad is not None
    assert x.grad[:, 4:].count_nonzero() == 0
    assert x.grad[1, :4].count_nonzero() > 0


@pytest.mark.parametrize(
    ("kind", "bidirectional", "options"),
    [(kind, both, options) for kind, both, options in product(KINDS, (False, True), ({}, {"dropout": 0.5}))],
)
def test_without_options_weights_keep_their_names_and_one_module_its_layers(
    kind: type[RecurrentEncoder], bidirectional: bool, options: dict[str, float]
) -> None:
    encoder = build(kind, bidirectional, **options)
    assert encoder.fused is not bidirectional
    assert len(encoder.forward_nets) == (3 if bidirectional else 1)
    nets = {name.split(".")[0] for name in encoder.state_dict()}
    assert nets == ({"forward_nets", "backward_nets"} if bidirectional else {"forward_nets"})


@each_kind
@each_direction
def test_torch_state_makes_the_round_trip_layer_by_layer(kind: type[RecurrentEncoder], bidirectional: bool) -> None:
    stack = kind(D, H, num_layers=2, bidirectional=bidirectional, residual=True)
    reference = stack.cell(D, H, 2, batch_first=True, bidirectional=bidirectional)
    assert list(stack.torch_state()) == list(reference.state_dict())
    stack.load_torch_state(reference.state_dict())
    for name, weight in reference.state_dict().items():
        assert torch.equal(stack.torch_state()[name], weight)


@each_direction
def test_variational_dropout_has_one_mask_a_history(bidirectional: bool) -> None:
    """Each unit of what a layer reads is dropped at all steps of a history or at none."""
    torch.manual_seed(0)
    encoder = GRUEncoder(8, H, bidirectional=bidirectional, variational_dropout=0.5)
    read: list[Tensor] = []
    hook: Callable[..., None] = lambda _, inputs: read.append(inputs[0])  # noqa: E731
    encoder.forward_nets[0].register_forward_pre_hook(hook)
    encoder(torch.ones(50, 6, 8), torch.full((50,), 6))
    assert torch.equal(read[0], read[0][:, :1].expand(-1, 6, -1))
    assert sorted(set(read[0].flatten().tolist())) == [0.0, 2.0]
    assert (read[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert len({tuple(row) for row in read[0][:, 0].tolist()}) > 10
    encoder.eval()(torch.ones(50, 6, 8), torch.full((50,), 6))
    assert torch.equal(read[1], torch.ones(50, 6, 8))


def test_variational_dropout_reaches_every_layer() -> None:
    torch.manual_seed(0)
    encoder = LSTMEncoder(D, 32, num_layers=2, variational_dropout=0.5)
    read: list[Tensor] = []
    hook: Callable[..., None] = lambda _, inputs: read.append(inputs[0])  # noqa: E731
    encoder.forward_nets[1].register_forward_pre_hook(hook)
    encoder(torch.randn(4, 6, D), torch.full((4,), 6))
    dropped = read[0] == 0
    assert torch.equal(dropped, dropped[:, :1].expand(-1, 6, -1))
    assert 0 < int(dropped.sum()) < dropped.numel()
