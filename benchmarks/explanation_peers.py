"""What the peers of `ehrseq.explain` say of the same functions: captum, and time-interpret where it is installed.

For the latter `pip install --no-deps --target FOLDER time-interpret==0.3.0`, and FOLDER on PYTHONPATH.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class OfValues(nn.Module):
    """A network as a function of values (B, T, F) alone, (B,)."""

    def __init__(self, score: Callable[[Tensor], Tensor], model: nn.Module | None = None) -> None:
        super().__init__()
        self.score, self.model = score, model

    def forward(self, values: Tensor) -> Tensor:
        """Score each history."""
        return self.score(values)


def time_interpret() -> bool:
    """Whether it can be imported."""
    try:
        import tint.attr  # noqa: F401
    except ImportError:
        return False
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    return True


def trainer(epochs: int) -> Any:
    from pytorch_lightning import Trainer

    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def of_white_box(
    model: Callable[[Tensor], Tensor], by_step: Callable[[Tensor], Tensor], values: Tensor, masks: bool = True
) -> Any:
    """The rare tasks: a known function of (N, T, F), summed up and by step."""
    from captum.attr import DeepLift, IntegratedGradients, Saliency

    whole = OfValues(model)
    yield "captum integrated_gradients", IntegratedGradients(whole).attribute(values, n_steps=32)
    yield "captum saliency", Saliency(whole).attribute(values)
    yield "captum deep_lift", DeepLift(whole).attribute(values)
    if not masks or not time_interpret():
        return
    yield "time-interpret extremal_mask", extremal_mask(by_step, values)


def of_prefixes(model: nn.Module, score: Callable[[Tensor], Tensor], values: Tensor) -> Any:
    """Each step of (N, T, F) in the prediction that it is the last of, as time-interpret's tunnel does it."""
    from captum.attr import DeepLift, IntegratedGradients

    function = OfValues(score, model)

    def last(attribute: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([attribute(values[:, :end])[:, -1].detach() for end in range(1, values.shape[1] + 1)], 1)

    lift, integrated = DeepLift(function), IntegratedGradients(function)
    yield "captum deep_lift", last(lift.attribute)
    yield "captum integrated_gradients", last(lambda part: integrated.attribute(part, n_steps=32))
    if not time_interpret():
        return
    from tint.attr import TemporalOcclusion, TimeForwardTunnel

    found = TimeForwardTunnel(TemporalOcclusion(function)).attribute(values, sliding_window_shapes=(1,))
    yield "time-interpret occlusion", found


def extremal_mask(at_steps: Callable[[Tensor], Tensor], values: Tensor, epochs: int = 500) -> Tensor:
    """time-interpret's on a function that says (N, T) at once, as in its own experiments."""
    from tint.attr import ExtremalMask
    from tint.attr.models import ExtremalMaskNet
    from tint.models import MLP, RNN

    torch.manual_seed(42)
    features = values.shape[-1]
    learned = nn.Sequential(
        RNN(features, rnn="gru", hidden_size=features, bidirectional=True), MLP([2 * features, features])
    )
    net = ExtremalMaskNet(forward_func=at_steps, model=learned, optim="adam", lr=0.1)
    found: Tensor = ExtremalMask(at_steps).attribute(
        values, trainer=trainer(epochs), mask_net=net, batch_size=len(values)
    )
    return found


def retain(train: tuple[Tensor, Tensor], values: Tensor, labels: Tensor, epochs: int = 50) -> Tensor:
    """time-interpret's RETAIN, trained and read as in its own experiment on State."""
    from tint.attr import Retain
    from tint.attr.models import RetainNet

    torch.manual_seed(42)
    net = RetainNet(
        dim_emb=128, dropout_emb=0.4, dim_alpha=8, dim_beta=8, dropout_context=0.4, dim_output=2, loss="cross_entropy"
    )
    explainer = Retain(retain=net, features=train[0], labels=train[1].long(), trainer=trainer(epochs))
    found: Tensor = explainer.attribute(values, target=labels.long())
    return found
