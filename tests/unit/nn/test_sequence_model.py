"""The whole net, every encoder with every pooling: padding and company in the batch never change a prediction."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError
from ehrseq.nn import (
    AttentionPooling,
    GridEmbedding,
    GRUEncoder,
    Head,
    LastPooling,
    LSTMEncoder,
    MaxPooling,
    MeanPooling,
    MultiHeadAttentionPooling,
    Objective,
    Pooling,
    Prediction,
    RecurrentEncoder,
    RNNEncoder,
    SequenceModel,
    make_objective,
)

F, S, H = 4, 2, 6
LENGTHS = [5, 1, 8, 3, 8, 1]
ENCODERS = [
    (kind, bidirectional, layers)
    for kind, bidirectional, layers in product((RNNEncoder, LSTMEncoder, GRUEncoder), (False, True), (1, 2))
    if layers == 1 or kind is LSTMEncoder  # stacking is the same code for all three
]
POOLINGS: list[tuple[type[Pooling], dict[str, Any]]] = [
    (LastPooling, {}),
    (MeanPooling, {}),
    (MaxPooling, {}),
    (AttentionPooling, {"query": "last", "with_last": True}),
    (AttentionPooling, {"query": "learned", "with_last": False, "with_max": True}),
    (MultiHeadAttentionPooling, {"num_heads": 2}),
]


@dataclass(frozen=True)
class Inputs:
    values: Tensor
    observed: Tensor
    hours_since: Tensor
    hours_before: Tensor
    statics: Tensor
    lengths: Tensor


def random_inputs() -> Inputs:
    torch.manual_seed(1)
    shape = (len(LENGTHS), max(LENGTHS), F)
    return Inputs(
        values=torch.randn(shape),
        observed=(torch.rand(shape) < 0.5).float(),
        hours_since=torch.rand(shape) * 48,
        hours_before=torch.arange(shape[1] - 1, -1, -1.0).expand(shape[:2]),
        statics=torch.randn(len(LENGTHS), S),
        lengths=torch.tensor(LENGTHS),
    )


def repad(inputs: Inputs, steps: int, fill: float) -> Inputs:
    """The same histories with other padding: `steps` in all, holding `fill`."""
    grids = {}
    for name in ("values", "observed", "hours_since", "hours_before"):
        old: Tensor = getattr(inputs, name)
        grids[name] = torch.full((len(LENGTHS), steps, *old.shape[2:]), fill, dtype=old.dtype)
        for row, length in enumerate(LENGTHS):
            grids[name][row, :length] = old[row, :length]
    return replace(inputs, **grids)


@cache
def composed() -> Settings:
    return load_settings()


def objective() -> Objective:
    settings = composed()
    return make_objective(settings.task.target, settings.loss)


def build(encoder: tuple[type[RecurrentEncoder], bool, int], pooling: tuple[type[Pooling], dict[str, Any]]) -> Any:
    torch.manual_seed(0)
    kind, bidirectional, num_layers = encoder
    embedding = GridEmbedding(F, S, projection=5, dropout=0.1)
    net = kind(embedding.output_size, H, num_layers, bidirectional, dropout=0.2)
    pool = pooling[0](net.output_size, bidirectional=bidirectional, **pooling[1])
    head = Head(pool.output_size, num_statics=S, hidden_size=16)
    return SequenceModel(embedding, net, pool, head, objective()).eval()


@pytest.fixture(
    name="model",
    params=product(ENCODERS, POOLINGS),
    ids=lambda pair: f"{pair[0][0].__name__}-{pair[0][1]}-{pair[0][2]}-{pair[1][0].__name__}{len(pair[1][1])}",
)
def built_model(request: pytest.FixtureRequest) -> Any:
    return build(*request.param)


def assert_same(one: Prediction, other: Prediction, atol: float) -> None:
    steps = min(one.hidden.shape[1], other.hidden.shape[1])
    assert torch.allclose(one.output, other.output, rtol=0, atol=atol)
    assert torch.allclose(one.hidden[:, :steps], other.hidden[:, :steps], rtol=0, atol=atol)
    assert (one.attention is None) == (other.attention is None)
    if one.attention is not None and other.attention is not None:
        assert torch.allclose(one.attention[:, :steps], other.attention[:, :steps], rtol=0, atol=atol)


def test_shapes_and_attention_are_as_promised(model: SequenceModel) -> None:
    prediction: Prediction = model(random_inputs())
    assert prediction.output.shape == (6, 1)
    assert len(set(prediction.output[:, 0].tolist())) == 6
    assert prediction.hidden.shape == (6, 8, model.encoder.output_size)
    assert (prediction.attention is not None) == model.pooling.gives_attention
    if prediction.attention is not None:
        assert prediction.attention.shape == (6, 8)
        assert torch.allclose(prediction.attention.sum(1), torch.ones(6), rtol=0, atol=1e-6)
        for row, length in enumerate(LENGTHS):
            assert prediction.attention[row, length:].count_nonzero() == 0


@pytest.mark.parametrize("fill", [0.0, -1.0, 1e4])
def test_values_in_padding_change_nothing(model: SequenceModel, fill: float) -> None:
    inputs = random_inputs()
    one, other = model(inputs), model(repad(inputs, max(LENGTHS), fill))
    assert_same(one, other, atol=1e-6)


def test_more_padding_changes_nothing(model: SequenceModel) -> None:
    model = model.double()
    inputs = random_inputs()
    inputs = Inputs(*(x.double() if x.is_floating_point() else x for x in vars(inputs).values()))
    longer = repad(inputs, max(LENGTHS) + 7, 3.0)
    one, other = model(inputs), model(longer)
    for row, length in enumerate(LENGTHS):
        assert other.hidden[row, length:].count_nonzero() == 0
        assert other.attention is None or other.attention[row, length:].count_nonzero() == 0
    assert_same(one, other, atol=1e-12)


def test_a_history_alone_is_predicted_as_in_a_batch(model: SequenceModel) -> None:
    inputs = random_inputs()
    batch: Prediction = model(inputs)
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        alone: Prediction = model(
            Inputs(
                values=inputs.values[one, :length],
                observed=inputs.observed[one, :length],
                hours_since=inputs.hours_since[one, :length],
                hours_before=inputs.hours_before[one, :length],
                statics=inputs.statics[one],
                lengths=inputs.lengths[one],
            )
        )
        attention = None if batch.attention is None else batch.attention[one]
        assert_same(
            alone, Prediction(batch.opinions[one], attention, batch.hidden[one], batch.auxiliary[one]), atol=1e-6
        )


def test_every_weight_learns_and_padding_does_not_reach_its_gradient(model: SequenceModel) -> None:
    gradients = []
    for inputs in (random_inputs(), repad(random_inputs(), max(LENGTHS), 50.0)):
        model.zero_grad()
        model(inputs).output.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is not None, name
        assert other is not None, name
        assert gradient.count_nonzero() > 0, name
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-6), name


def test_statics_reach_the_prediction_through_the_steps_and_through_the_head() -> None:
    for statics, num_statics, reaches in (("steps", 0, True), ("none", S, True), ("none", 0, False)):
        torch.manual_seed(0)
        embedding = GridEmbedding(F, S, statics="steps" if statics == "steps" else "none")
        encoder = GRUEncoder(embedding.output_size, H)
        model = SequenceModel(embedding, encoder, MeanPooling(H), Head(H, num_statics=num_statics), objective()).eval()
        inputs = random_inputs()
        same = torch.equal(model(inputs).output, model(replace(inputs, statics=inputs.statics + 1)).output)
        assert same is not reaches


def test_with_two_directions_last_pooling_reads_the_whole_history_in_both() -> None:
    """The backward half of the last step has seen one step only; read there, early steps would not reach it."""
    model = build((LSTMEncoder, True, 1), (LastPooling, {}))
    inputs = random_inputs()
    values = inputs.values.clone()
    values[:, 1] += 1.0
    before, after = (model.pooling(model(x).hidden, x.lengths).vector for x in (inputs, replace(inputs, values=values)))
    moved = (before - after).abs() > 0
    assert moved.all(dim=1).tolist() == [length > 1 for length in LENGTHS]


def test_blocks_that_do_not_fit_are_named() -> None:
    embedding, encoder = GridEmbedding(F, S), GRUEncoder(18, H)
    with pytest.raises(
        ConfigError, match=r"^encoder.input_size is 13; allowed is 18, which the block before it gives$"
    ):
        SequenceModel(embedding, GRUEncoder(13, H), MeanPooling(H), Head(H), objective())
    with pytest.raises(ConfigError, match=r"^pooling.input_size is 5; allowed is 6,"):
        SequenceModel(embedding, encoder, MeanPooling(5), Head(5), objective())
    with pytest.raises(ConfigError, match=r"^head.input_size is 6; allowed is 12,"):
        SequenceModel(embedding, encoder, AttentionPooling(H), Head(H), objective())
    with pytest.raises(ConfigError, match=r"^pooling.bidirectional is False; allowed is True,"):
        SequenceModel(embedding, GRUEncoder(18, H, bidirectional=True), LastPooling(2 * H), Head(2 * H), objective())
