"""Other attention weights that give the same score."""

import torch
from torch import Tensor

from ehrseq.config.load import load_settings
from ehrseq.data import GridBatch
from ehrseq.explain.adversary import adversarial_divergence
from ehrseq.nn import SequenceModel
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
