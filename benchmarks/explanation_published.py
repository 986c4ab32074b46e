"""Our explainers beside captum's and time-interpret's on the tasks of `explanation_tasks`, by AUPRC, AUP and AUR."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from explanation_peers import extremal_mask, of_prefixes, of_white_box, retain, time_interpret
from explanation_tasks import Task, WhiteBox, batch_of, fit, histories_of, network, rare, state, switch_feature
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.explain.base import Explainer
from ehrseq.explain.gradients import GradientXInput, IntegratedGradients
from ehrseq.explain.histories import Histories, Replacement
from ehrseq.explain.masks import ExtremalMask
from ehrseq.explain.occlusion import EventOcclusion
from ehrseq.explain.weights import AttentionByEvent, AttentionXGradient, Contributions
from ehrseq.metrics.binary import average_precision
from ehrseq.nn import (
    AttentionPooling,
    EventAttentionEncoder,
    GRUEncoder,
    LastPooling,
    LSTMEncoder,
    SequenceModel,
    SumPooling,
)

Found = Iterator[tuple[str, Tensor]]
REPLACEMENTS: tuple[Replacement, ...] = ("carry", "mask")


def areas(truth: NDArray[np.bool_], weight: NDArray[np.floating]) -> tuple[float, float, float]:
    """AUPRC, and the areas under precision and recall over the threshold (AUP, AUR), as time-interpret has them.

    Weights of each history are scaled to 0 to 1; then all positions are one population.

    Args:
        truth: (N, ...).
        weight: (N, ...), never negative.
    """
    rows = weight.reshape(len(weight), -1)
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    flat, wanted = ((rows - low) / (high - low + 1e-5)).ravel(), truth.ravel()
    thresholds = np.unique(flat)
    order = np.argsort(flat)
    hits = np.append(np.cumsum(wanted[order][::-1])[::-1], 0)
    at = np.searchsorted(flat[order], thresholds)
    recall = hits[at] / wanted.sum()
    precision = hits[at] / (len(flat) - at)
    aup, aur = (float(np.trapezoid(line, thresholds)) for line in (precision, recall))
    return average_precision(wanted.astype(float), flat), aup, aur


def white_box(kind: str, seed: int, masks: bool = True) -> tuple[Task, Found]:
    """Ten histories of a rare task, and what everybody says of them."""
    task = rare(10, seed, kind)
    model: Any = WhiteBox(task.salient)
    salient, histories = model.salient, histories_of(task.values, torch.full((10,), 50))

    def by_step(values: Tensor) -> Tensor:
        squares: Tensor = (values**2 * salient.repeat(len(values) // 10, 1, 1)).sum(-1)
        return squares

    def ours() -> Found:
        for explainer in (IntegratedGradients(model), GradientXInput(model), EventOcclusion(model)):
            yield f"ehrseq {explainer.name}", explainer.attribute(histories).parts[:, 50:].reshape(task.values.shape)
        mask = ExtremalMask(model, iterations=300, size=1e-3)
        if not masks:
            return
        yield "ehrseq extremal_mask", mask.attribute(histories).parts[:, 50:].reshape(task.values.shape)

    return task, chain(ours(), of_white_box(lambda values: by_step(values).sum(-1), by_step, task.values, masks))


def prefixes(explainer: Explainer, values: Tensor, chunk: int = 20) -> Tensor:
    """Each step of (N, T, F) in the prediction that it is the last of."""
    count, steps, features = values.shape
    rows = []
    for begin in range(0, steps, chunk):
        lengths = torch.arange(begin + 1, min(begin + chunk, steps) + 1).repeat(count)
        parts = values[:, : begin + chunk].repeat_interleave(len(lengths) // count, 0)
        found = explainer.attribute(histories_of(parts, lengths)).parts.reshape(len(lengths), -1, features)
        last = found[torch.arange(len(lengths)), lengths]
        rows.append(last.reshape(count, -1, features))
    return torch.cat(rows, 1)


class LastStepOcclusion(EventOcclusion):
    """`occlusion` of the last step alone, which is all that `prefixes` looks at."""

    def groups(self, histories: Histories) -> Tensor:
        """The parts of the last step, each by itself."""
        last = histories.step.expand(len(histories), -1) == histories.batch.lengths[:, None] - 1
        there = last & histories.present
        return (there.long().cumsum(1) - 1).masked_fill(~there, -1)


def learned(
    make: Callable[..., Task], seed: int, masks: bool = True, count: int = 4, updates: int = 500
) -> tuple[Task, Found]:
    """A few histories of a task that a network learns, and what everybody says of every prediction along them."""
    train, test = make(800, seed), make(count, seed + 1000)
    torch.manual_seed(seed)
    plain = network(3, GRUEncoder(3, 32), LastPooling(32))
    attended = network(3, LSTMEncoder(3, 32), AttentionPooling(32, query="last", with_last=False))
    torch.manual_seed(seed)
    # A step is an hour there; weights begin with the latest.
    by_event = EventAttentionEncoder(3, 3, 32, pieces=False, constant=False, half_life_hours=1.0)
    weighed = network(3, by_event, SumPooling(32))
    for model in (plain, attended, weighed):
        fit(model, train, updates, seed)

    def score(model: SequenceModel, values: Tensor) -> Tensor:
        lengths = torch.full((len(values),), values.shape[1])
        return model.objective.score(model(batch_of(values, lengths)).output)

    def at_steps(values: Tensor) -> Tensor:
        lengths = torch.full((len(values),), values.shape[1])
        return plain.at_steps(batch_of(values, lengths)).output[..., 0]

    def found() -> Found:
        for explainer in (IntegratedGradients(plain), GradientXInput(plain)):
            yield f"ehrseq {explainer.name}", prefixes(explainer, test.values)
        for replacement in REPLACEMENTS:
            occlusion = LastStepOcclusion(plain, replacement)
            yield f"ehrseq occlusion (replacement={replacement})", prefixes(occlusion, test.values)
        for explainer in (AttentionByEvent(attended), AttentionXGradient(attended), IntegratedGradients(attended)):
            yield f"ehrseq {explainer.name} (attention network)", prefixes(explainer, test.values)
        for explainer in (AttentionByEvent(weighed), Contributions(weighed)):
            yield f"ehrseq {explainer.name} (event attention)", prefixes(explainer, test.values)
        yield from of_prefixes(plain, partial(score, plain), test.values)
        if not masks:  # which are slow, as RETAIN's training is
            return
        mask = ExtremalMask(plain, iterations=40, size=0.1)
        yield f"ehrseq {mask.name}", prefixes(mask, test.values)
        if time_interpret():
            yield "time-interpret extremal_mask", extremal_mask(at_steps, test.values)
            yield "time-interpret retain", retain((train.values, train.labels), test.values, test.labels)

    return test, found()


TASKS: dict[str, Callable[..., tuple[Task, Found]]] = {
    "rare_time": partial(white_box, "rare_time"),
    "rare_feature": partial(white_box, "rare_feature"),
    "state": partial(learned, state),
    "switch_feature": partial(learned, switch_feature),
}


def published(name: str, seeds: int = 1, masks: bool = True) -> dict[str, Any]:
    """Of one of `TASKS`: means over seeds by explainer."""
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        data, explained = TASKS[name](seed, masks=masks)
        for explainer, weight in explained:
            scores.setdefault(explainer, []).append(areas(data.salient, weight.detach().abs().numpy()))
            print(name, seed, explainer, [round(number, 3) for number in scores[explainer][-1]], flush=True)
    means = {explainer: np.mean(rows, 0).tolist() for explainer, rows in scores.items()}
    return {
        explainer: dict(zip(("auprc", "aup", "aur"), row, strict=True)) | {"seeds": seeds}
        for explainer, row in means.items()
    }
