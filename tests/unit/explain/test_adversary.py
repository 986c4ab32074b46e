"""Other attention weights that give the same score: searched for each history, or given by a trained network."""

from dataclasses import replace

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from ehrseq.config.load import load_settings
from ehrseq.data import GridBatch
from ehrseq.explain.adversary import adversarial_divergence
from ehrseq.explain.controls import Controls, attention_tests, tell_tests
from ehrseq.explain.sanity import with_even_attention, with_new_attention
from ehrseq.metrics.intervals import Estimate
from ehrseq.nn import (
    AttentionPooling,
    GuidedModel,
    SequenceModel,
    StepwiseEncoder,
    attention_divergence,
    without_context,
)
from ehrseq.training.rival import RivalModule
from ehrseq.workflows.build import build_model


def made(pooling: str) -> tuple[SequenceModel, GridBatch]:
    settings = load_settings([f"model/pooling={pooling}"])
    torch.manual_seed(0)
    model = build_model(settings.model, settings.task.target, settings.loss, 5, 2).eval()
    lengths = torch.tensor([12, 12, 6, 1])
    values = torch.randn(4, 12, 5)

    def of(rows: Tensor) -> Tensor:
        return rows * (torch.arange(12) < lengths[:, None]).unsqueeze(-1)

    batch = GridBatch(
        hours_before=(lengths[:, None] - 1 - torch.arange(12)).clamp(min=0).float(),
        statics=torch.zeros(4, 2),
        lengths=lengths,
        targets=torch.zeros(4, 1),
        auxiliary=torch.zeros(4, 0),
        samples=torch.arange(4),
        values=of(values),
        observed=of(torch.ones_like(values)),
        hours_since=torch.zeros_like(values),
    )
    return model, batch


def test_where_the_context_does_not_matter_any_weights_do() -> None:
    model, batch = made("attention")
    linear = model.head.linear
    assert linear is not None
    with torch.no_grad():
        linear.weight[:, :64] = 0.0
    found = adversarial_divergence(model, batch, 0)
    assert found is not None
    assert (found[:3] > 0.6).all()
    assert found[3] == 0  # one step has no other weights


def test_where_each_step_says_another_thing_none_do() -> None:
    """The context decides the score, and attention is on one step whose state no others make up."""
    model, batch = made("context")
    linear = model.head.linear
    assert linear is not None
    with torch.no_grad():
        linear.weight.mul_(300.0)
    found = adversarial_divergence(model, batch, 0)
    free, _ = made("context")
    loose = adversarial_divergence(free, batch, 0)
    assert found is not None
    assert loose is not None
    assert found[:3].mean() < loose[:3].mean()
    assert adversarial_divergence(made("mean")[0], batch, 0) is None


def test_a_rival_is_found_where_the_context_does_not_matter_alone() -> None:
    """The score depends on the context, much or not at all; the rival has the same time to learn both."""
    found = {}
    for name, size in (("not at all", 0.0), ("much", 100.0)):
        model, batch = made("attention")
        linear = model.head.linear
        assert linear is not None
        with torch.no_grad():
            linear.weight[:, :64] *= size
            assert isinstance(model.pooling, AttentionPooling)
            model.pooling.score.weight.mul_(20.0)
        spread = torch.tensor([0.05])
        rival = with_new_attention(model, 0).train()
        for layer in rival.modules():  # so that a few steps tell
            if isinstance(layer, torch.nn.Dropout | torch.nn.Dropout1d):
                layer.p = 0.0
        optimizer = torch.optim.Adam(rival.parameters(), lr=0.01)
        module = RivalModule(rival, torch.optim.Adam, base=model, spread=spread, trade_off=0.3)
        assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"model"}
        for _ in range(40):
            optimizer.zero_grad()
            module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        tests = attention_tests(model, Controls(rivals={0.3: rival.eval()}, spread=spread), [batch])
        found[name] = {figure: float(value[:3].mean()) for figure, value in tests.items()}
    assert found["not at all"]["attention/rival_0.3_divergence"] > 0.6
    assert found["not at all"]["attention/rival_0.3_moved"] < 0.2
    gain = {
        name: figures["attention/rival_0.3_divergence"] - figures["attention/rival_0.3_moved"]
        for name, figures in found.items()
    }
    assert gain["not at all"] > gain["much"] + 0.2


def test_a_network_without_context_sees_single_steps() -> None:
    guide, batch = made("attention")
    other, _ = made("attention")
    guided = without_context(other, guide).eval()
    assert isinstance(guided, GuidedModel)
    assert isinstance(guided.encoder, StepwiseEncoder)
    with torch.no_grad():
        before, theirs = guided(batch), guide(batch)
        changed = replace(batch, values=batch.values.clone())
        changed.values[:, 0] += 3.0
        after = guided(changed)
    assert torch.equal(before.attention, theirs.attention)
    assert torch.equal(before.hidden[:, 1:], after.hidden[:, 1:])
    assert not torch.equal(before.hidden[:, 0], after.hidden[:, 0])
    assert not any("guide" in name for name in guided.state_dict())
    # Nor does it train, whatever the network around it does.
    guided.train()
    assert not guide.training
    even = without_context(made("attention")[0], "even").eval()(batch)
    assert torch.allclose(even.attention[0], torch.full((12,), 1 / 12))
    assert without_context(made("attention")[0], "learned").pooling.gives_attention


def test_even_attention_stays_even() -> None:
    model, batch = made("attention")
    even = with_even_attention(model)
    optimizer = torch.optim.Adam(even.parameters(), lr=0.1)
    even(batch).output.sum().backward()
    optimizer.step()
    attention = even(batch).attention
    assert torch.allclose(attention[0], torch.full((12,), 1 / 12))
    assert not torch.allclose(model(batch).attention[0], attention[0])


def test_divergence_is_that_of_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 5, 9, generator=generator, dtype=torch.float64).unbind()
    one, other = one / one.sum(1, keepdim=True), other / other.sum(1, keepdim=True)
    wanted = jensenshannon(one.numpy(), other.numpy(), base=2, axis=1) ** 2
    assert attention_divergence(one, other).numpy() == pytest.approx(wanted)
    apart = attention_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert float(apart) == pytest.approx(1.0)


def test_the_tests_of_attention_are_told() -> None:
    good = {
        "even_trained": Estimate(0.05, 0.02, 0.08),
        "seeds_divergence": Estimate(0.1, 0.09, 0.11),
        "seeds_moved": Estimate(0.3, 0.2, 0.4),
        "rival_0.1_divergence": Estimate(0.2, 0.1, 0.3),
        "rival_0.1_moved": Estimate(0.05, 0.04, 0.06),
        "rival_1_divergence": Estimate(0.9, 0.8, 1.0),  # far away, but it predicts other things
        "rival_1_moved": Estimate(0.9, 0.8, 1.0),
        "guide_over_even": Estimate(0.02, 0.01, 0.03),
        "guide_over_learned": Estimate(0.02, 0.01, 0.03),
        "guide_over_rival": Estimate(0.02, 0.01, 0.03),
    }

    def told(**changes: Estimate) -> str:
        return tell_tests({f"attention/{name}": figure for name, figure in (good | changes).items()})

    assert told() == "Tests of attention passed (Wiegreffe and Pinter 2019): 4 of 4."
    assert tell_tests({}) == ""
    assert told(even_trained=Estimate(0.01, -0.01, 0.03)).endswith(
        "3 of 4; failed: a network trained with even weights does as well."
    )
    assert "other seeds attend elsewhere (divergence 0.70)" in told(seeds_divergence=Estimate(0.7, 0.6, 0.8))
    assert "predicts the same and attends elsewhere (divergence 0.80)" in told(
        **{"rival_0.1_divergence": Estimate(0.8, 0.7, 0.9)}
    )
    assert "no better a guide" in told(guide_over_learned=Estimate(0.02, -0.01, 0.03))
