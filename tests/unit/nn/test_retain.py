"""RETAIN against the paper's equations, step by step, and the exact parts of its logit."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ehrseq.config.load import load_settings
from ehrseq.errors import ConfigError
from ehrseq.nn import (
    AttentionPooling,
    Embedding,
    GRUEncoder,
    Head,
    MeanPooling,
    Pooling,
    RetainEncoder,
    SequenceModel,
    SummaryNetwork,
    SumPooling,
    contributions,
    make_objective,
)
from ehrseq.workflows.build import build_model

D, H, S = 5, 4, 2
LENGTHS = torch.tensor([3, 9, 1, 6])


@dataclass(frozen=True)
class Inputs:
    steps: Tensor
    statics: Tensor
    lengths: Tensor


class Given(Embedding):
    """Takes the embedded steps from the batch."""

    reads = ("steps",)
    output_size = D

    def forward(self, steps: Tensor) -> Tensor:  # type: ignore[override]
        return steps


def random_inputs() -> Inputs:
    torch.manual_seed(1)
    steps = torch.randn(len(LENGTHS), 9, D, dtype=torch.float64)
    return Inputs(steps, torch.randn(len(LENGTHS), S, dtype=torch.float64), LENGTHS)


def build(pooling: Pooling | None = None, **head: Any) -> SequenceModel:
    torch.manual_seed(0)
    pool = pooling or SumPooling(D)
    settings = load_settings()
    objective = make_objective(settings.task.target, settings.loss)
    model = SequenceModel(Given(), RetainEncoder(D, H), pool, Head(pool.output_size, dropout=0.4, **head), objective)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.double().eval()


def gru_states(net: GRUEncoder, steps: list[Tensor]) -> list[Tensor]:
    """The states of a GRU after each of the steps."""
    w = net.torch_state()
    h, states = torch.zeros(H, dtype=torch.float64), []
    for x in steps:
        a, b = w["weight_ih_l0"] @ x + w["bias_ih_l0"], w["weight_hh_l0"] @ h + w["bias_hh_l0"]
        r, z = torch.sigmoid(a[:H] + b[:H]), torch.sigmoid(a[H : 2 * H] + b[H : 2 * H])
        h = (1 - z) * torch.tanh(a[2 * H :] + r * b[2 * H :]) + z * h
        states.append(h)
    return states


def test_attention_states_and_logits_follow_the_written_equations() -> None:
    model, inputs = build(), random_inputs()
    encoder = model.encoder
    assert isinstance(encoder, RetainEncoder)
    prediction = model(inputs)
    alpha, beta = encoder.attention(inputs.steps, LENGTHS)
    last = model.head.linear
    assert last is not None
    for row, length in enumerate(LENGTHS.tolist()):
        v = list(inputs.steps[row, :length])
        g = gru_states(encoder.step_net, v[::-1])[::-1]
        h = gru_states(encoder.unit_net, v[::-1])[::-1]
        e = [torch.exp(encoder.step_score.weight[0] @ state) for state in g]
        context = torch.zeros(D, dtype=torch.float64)
        for t in range(length):
            weight = e[t] / sum(e)
            direction = torch.tanh(encoder.unit_score.weight @ h[t] + encoder.unit_score.bias)
            context = context + weight * direction * v[t]
            assert torch.allclose(alpha[row, t], weight, rtol=0, atol=1e-10)
            assert torch.allclose(beta[row, t], direction, rtol=0, atol=1e-10)
            assert torch.allclose(prediction.hidden[row, t], weight * direction * v[t], rtol=0, atol=1e-10)
        assert torch.allclose(prediction.output[row], last.weight @ context + last.bias, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_statics", [0, S])
def test_contributions_add_up_to_the_logit(num_statics: int) -> None:
    model, inputs = build(num_statics=num_statics), random_inputs()
    parts, prediction = contributions(model, inputs), model(inputs)
    assert parts.steps.shape == (len(LENGTHS), 9, 1)
    assert torch.allclose(parts.steps.sum(1) + parts.statics + parts.bias, prediction.output, rtol=0, atol=1e-10)
    assert parts.statics.any().item() == bool(num_statics)
    for row, length in enumerate(LENGTHS.tolist()):
        assert parts.steps[row, length:].count_nonzero() == 0
        # What a step adds is what the logit loses without its hidden state.
        hidden = prediction.hidden[row : row + 1].clone()
        hidden[:, 0] = 0
        without = model.head(model.pooling(hidden, LENGTHS[row : row + 1]).vector, inputs.statics[row : row + 1])
        assert torch.allclose(prediction.output[row] - without[0], parts.steps[row, 0], rtol=0, atol=1e-10)


def test_contributions_add_up_in_float32_too() -> None:
    model, inputs = build(num_statics=S).float(), random_inputs()
    inputs = Inputs(inputs.steps.float(), inputs.statics.float(), LENGTHS)
    parts = contributions(model, inputs)
    assert torch.allclose(parts.steps.sum(1) + parts.statics + parts.bias, model(inputs).output, rtol=0, atol=1e-5)


def test_the_prediction_shows_alpha_unless_the_pooling_weighs_the_steps_itself() -> None:
    inputs = random_inputs()
    model = build()
    assert isinstance(model.encoder, RetainEncoder)
    assert torch.equal(model(inputs).attention, model.encoder.attention(inputs.steps, LENGTHS)[0])
    mean = build(MeanPooling(D))(inputs)
    assert torch.allclose(mean.attention[1], torch.full((9,), 1 / 9, dtype=torch.float64))


def test_what_is_no_sum_over_steps_has_no_contributions() -> None:
    inputs = random_inputs()
    with pytest.raises(ConfigError, match=r"^pooling is AttentionPooling; exact contributions need SumPooling$"):
        contributions(build(AttentionPooling(D)), inputs)
    with pytest.raises(ConfigError, match=r"^head.hidden_size is set; exact contributions need a linear head$"):
        contributions(build(hidden_size=3), inputs)
    model = build()
    model.summary = SummaryNetwork(3, S)
    with pytest.raises(ConfigError, match=r"^summary is set; exact contributions need"):
        contributions(model, inputs)


@pytest.mark.parametrize("representation", ["grid", "events", "timepoints"])
def test_the_configured_model_has_contributions_whatever_it_reads(representation: str) -> None:
    settings = load_settings(["model=retain", f"representation={representation}"])
    model = build_model(settings.model, settings.task.target, settings.loss, num_features=7, num_statics=3)
    assert isinstance(model.pooling, SumPooling)
    assert model.head.linear is not None
    assert model.summary is None


def test_dropout_acts_on_what_the_attention_reads_and_in_training_only() -> None:
    torch.manual_seed(0)
    encoder, inputs = RetainEncoder(D, H, dropout=0.5).double(), random_inputs()
    one, other = (encoder.attention(inputs.steps, LENGTHS) for _ in range(2))
    assert not torch.allclose(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    encoder.eval()
    assert torch.equal(encoder(inputs.steps, LENGTHS), encoder(inputs.steps, LENGTHS))


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    encoder = RetainEncoder(2, 2).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: encoder(x, torch.tensor([3, 2])), (x,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 0}, "input_size is 0; allowed are whole numbers from 1 up"),
        ({"hidden_size": 2.5}, "hidden_size is 2.5; allowed are whole numbers from 1 up"),
        ({"dropout": 1.5}, "dropout is 1.5; allowed are numbers from 0 up to, but not including, 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RetainEncoder(**({"input_size": D} | arguments))
    assert str(caught.value) == message
