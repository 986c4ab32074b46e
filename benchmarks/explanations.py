"""How good explanations are: planted truth, published synthetic benchmarks, stability across seeds, speed.

    python benchmarks/explanations.py rare
    python benchmarks/explanations.py planted RUN...    # runs on source=synthetic that differ by their seeds
    python benchmarks/explanations.py stability RUN...  # runs on one real data set that differ by their seeds
    python benchmarks/explanations.py aids RUN...       # on source=synthetic, without and with loss.attention_gradient
    python benchmarks/explanations.py speed RUN
    python benchmarks/explanations.py trials RUN        # does the verdict tell good explainers from controls?

Each writes its part of `benchmarks/results/explanations.json`. RUN is a run folder of `ehrseq train`.
"""

import sys
from itertools import combinations
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ehrseq.data import HistoryDataset, Representation, represent
from ehrseq.explain.agreement import spearman
from ehrseq.explain.base import Explainer
from ehrseq.explain.cohort import Cohort, explained
from ehrseq.explain.gradients import IntegratedGradients
from ehrseq.explain.histories import StaticCodes
from ehrseq.explain.judge import RANDOM, UNTRAINED, Judge
from ehrseq.explain.planted import TRUTH, PlantedEvents, recovery
from ehrseq.explain.registry import cut_histories, make_explainers
from ehrseq.explain.verdict import reach_verdict
from ehrseq.explain.weights import Attention
from ehrseq.files import read_json, write_json
from ehrseq.metrics.binary import auroc, average_precision
from ehrseq.nn import SequenceModel, step_mask
from ehrseq.store import Store
from ehrseq.training import inference
from ehrseq.workflows import prepare
from ehrseq.workflows.prepare import Prepared
from ehrseq.workflows.runs import TrainedRun, open_run

RESULTS = Path(__file__).parent / "results" / "explanations.json"
CPU = torch.device("cpu")
EXPLAINERS = ["integrated_gradients", "gradient_x_input", "code_occlusion", "attention", "attention_x_gradient"]


def save(part: str, found: dict[str, Any]) -> None:
    known = read_json(RESULTS) if RESULTS.is_file() else {}
    write_json(RESULTS, known | {part: found})
    print(part, found)


def opened(folder: str) -> tuple[TrainedRun, Prepared, Store, Representation, SequenceModel]:
    run = open_run(Path(folder))
    prepared = prepare.run(run.settings)
    store = prepared.open()
    return run, prepared, store, represent(store, run.settings.representation), run.model()


def planted(folders: list[str], count: int = 200) -> None:
    """Recovery of the planted events in each of several runs."""
    rows: dict[str, list[float]] = {}
    for folder in folders:
        _, prepared, store, representation, model = opened(folder)
        histories = cut_histories(representation, store.samples("held_out")[:count])
        truth = PlantedEvents(prepared.dataset / TRUTH, store).among(histories)
        present = histories.present.numpy()
        random = np.random.default_rng(0).random(present.shape)
        rows.setdefault("random", []).append(float(np.nanmean(recovery(truth, random, present))))
        there = truth.any(1)
        share = truth.sum(1)[there] / present.sum(1)[there]
        rows.setdefault("base_rate", []).append(float(share.mean()))
        for explainer in make_explainers(EXPLAINERS, model, 32, 6.0):
            weight = explainer.attribute(histories).parts.abs().numpy()
            rows.setdefault(explainer.name, []).append(float(np.nanmean(recovery(truth, weight, present))))
    save("planted", {name: {"mean": float(np.mean(found)), "seeds": found} for name, found in rows.items()})


def aids(folders: list[str], count: int = 200) -> None:
    """Quality and faithfulness of attention by loss.attention_gradient: of events, and of whole steps."""
    found = []
    for folder in folders:
        run, prepared, store, representation, model = opened(folder)
        everything = store.samples("held_out")
        label = store.arrays.sample_label[everything, 0].astype(np.float64)
        scored = inference.score(model, HistoryDataset(representation, everything).ordered(run.settings.loader), CPU)
        histories = cut_histories(representation, everything[:count])
        truth = PlantedEvents(prepared.dataset / TRUTH, store).among(histories)
        steps = np.zeros(tuple(histories.batch.hours_before.shape), bool)
        row, part = np.nonzero(truth)
        step = histories.step.expand(len(histories), -1).numpy()[row, part]
        steps[row[step >= 0], step[step >= 0]] = True
        real = step_mask(histories.batch.lengths, histories.batch.steps).numpy()
        by_name = {made.name: made.attribute(histories) for made in make_explainers(EXPLAINERS, model, 16, 6.0)}
        attention = by_name["attention"].steps
        assert attention is not None
        random = np.random.default_rng(0).random(real.shape)
        entry: dict[str, Any] = {
            "attention_gradient": run.settings.loss.attention_gradient,
            "pooling": run.settings.model.plain()["pooling"],
            "auroc": auroc(label, scored.prediction[:, 0]),
            "steps_attention": float(np.nanmean(recovery(steps, attention.numpy(), real))),
            "steps_random": float(np.nanmean(recovery(steps, random, real))),
        }
        for name, attribution in by_name.items():
            weight = attribution.parts.abs().numpy()
            entry[f"events_{name}"] = float(np.nanmean(recovery(truth, weight, histories.present.numpy())))
        found.append(entry)
    save("aids", {"runs": found})


def stability(folders: list[str], count: int = 200) -> None:
    """Rank correlation of the importance of codes between runs that differ by their seeds."""
    weights: list[NDArray[np.float64]] = []
    codes: tuple[str, ...] = ()
    for folder in folders:
        _, _, store, representation, model = opened(folder)
        codes = (*representation.names, *StaticCodes.of(store).names)
        cohort = Cohort(codes, len(representation.names))
        samples = store.samples("held_out")[:count]
        for histories, found in explained([IntegratedGradients(model, 16)], representation, samples, CPU):
            cohort.add(histories, found, "")
        weights.append(np.concatenate([chunk[0] for chunk in cohort.by_code["integrated_gradients"]]).mean(0))
    mean = np.mean(weights, axis=0)
    top = np.argsort(-mean)[:20]
    pairs = [spearman(one[top], other[top]) for one, other in combinations(weights, 2)]
    leading = [codes[number] for number in top]
    save("stability", {"runs": len(folders), "spearman_top20": pairs, "mean": float(np.mean(pairs)), "top20": leading})


def speed(folder: str, count: int = 512) -> None:
    """Processor seconds a thousand histories, of one thread."""
    torch.set_num_threads(1)
    run, _, store, representation, model = opened(folder)
    samples = np.sort(np.concatenate([store.samples(split) for split in ("held_out", "tuning")]))[:count]

    def seconds(work: Any) -> float:
        times = []
        for _ in range(2):
            started = process_time()
            work()
            times.append(process_time() - started)
        return min(times) * 1000 / count

    def predict() -> None:
        dataset = HistoryDataset(representation, samples)
        for _ in inference.predictions(model, dataset.ordered(run.settings.loader), CPU):
            pass

    def attend() -> None:
        dataset = HistoryDataset(representation, samples)
        for _, prediction in inference.predictions(model, dataset.ordered(run.settings.loader), CPU):
            assert prediction.attention is not None
            prediction.attention.numpy()

    def attribute(explainer: Explainer) -> Any:
        return lambda: [explainer.attribute(cut_histories(representation, part)) for part in np.array_split(samples, 2)]

    found = {"predict": seconds(predict), "attention": seconds(attend)}
    found["attention_as_parts"] = seconds(attribute(Attention(model)))
    found["integrated_gradients_32"] = seconds(attribute(IntegratedGradients(model, 32)))
    found["integrated_gradients_over_predict"] = found["integrated_gradients_32"] / found["predict"]
    save("speed", found)


def trials(folder: str, count: int = 20, judged: int = 24) -> None:
    """In how many of several trials, other histories and other controls each, the verdict is right."""
    _, prepared, store, representation, model = opened(folder)
    everything = store.samples("held_out")
    right = {"better_than_random": 0, "better_than_untrained": 0, "trials": count}
    for trial in range(count):
        samples = np.sort(np.random.default_rng(trial).choice(everything, judged, replace=False))

        def make(net: SequenceModel) -> list[Explainer]:
            return make_explainers(["integrated_gradients"], net, 8, 6.0)

        truth = PlantedEvents(prepared.dataset / TRUTH, store)
        judge = Judge(model, make, 0.0, truth, seed=trial)
        figures = judge.run(representation, samples, CPU, lambda: None)
        verdict = reach_verdict(
            figures, ["integrated_gradients"], store.subjects_of(samples), replicates=500, seed=trial, level=0.95
        )
        for control in (RANDOM, UNTRAINED):
            name = "random" if control == RANDOM else "untrained"
            low = verdict.metrics[f"integrated_gradients/over_{name}"].ci_low
            right[f"better_than_{name}"] += int(low is not None and low > 0)
    save("trials", right)


def rare(count: int = 20) -> None:
    """Rare-Time and Rare-Feature of Crabbé and van der Schaar (2021, "Dynamask"), with a model that is known.

    50 steps of 50 features, each an autoregression of order 3 (0.25, 0.1, 0.05) with standard normal noise. The model
    sums the squares of the salient inputs: in Rare-Time five steps in a row of the features 13 to 37, in Rare-Feature
    five features in the steps 13 to 37.
    """
    found: dict[str, Any] = {}
    for kind in ("rare_time", "rare_feature"):
        scores: dict[str, list[tuple[float, float, float]]] = {}
        for seed in range(count):
            generator = np.random.default_rng(seed)
            x = autoregression(generator, 50, 50)
            truth = np.zeros((50, 50), bool)
            if kind == "rare_time":
                first = int(generator.integers(0, 46))
                truth[first : first + 5, 13:38] = True
            else:
                truth[13:38, generator.choice(50, 5, replace=False)] = True
            salient = torch.from_numpy(truth).float()
            value = torch.from_numpy(x).float()

            def model(inputs: Tensor, salient: Tensor = salient) -> Tensor:
                return (inputs**2 * salient).sum((-1, -2))

            for name, weight in white_box(model, value).items():
                scores.setdefault(name, []).append(areas(truth, weight.abs().numpy()))
        found[kind] = {
            name: dict(zip(("auprc", "aup", "aur"), np.mean(rows, axis=0).tolist(), strict=True))
            for name, rows in scores.items()
        }
    save("rare", found)


def autoregression(generator: np.random.Generator, steps: int, features: int) -> NDArray[np.float64]:
    x = np.zeros((steps, features))
    noise = generator.normal(size=(steps, features))
    for step in range(steps):
        past = [x[step - lag] if step >= lag else 0.0 for lag in (1, 2, 3)]
        x[step] = 0.25 * past[0] + 0.1 * past[1] + 0.05 * past[2] + noise[step]
    return x


def white_box(model: Any, value: Tensor) -> dict[str, Tensor]:
    """The same formulas as `ehrseq.explain`, and captum's, of a function of a (T, D) tensor."""
    from captum.attr import IntegratedGradients as Captum
    from captum.attr import Saliency

    from ehrseq.explain.gradients import quadrature

    total = torch.zeros_like(value)
    for place, weight in zip(*quadrature(32), strict=True):
        point = (value * place).requires_grad_()
        total += weight * torch.autograd.grad(model(point), point)[0]
    point = value.clone().requires_grad_()
    slope = torch.autograd.grad(model(point), point)[0]
    alone = value.expand(value.numel(), -1, -1).clone().flatten(1)
    alone.fill_diagonal_(0.0)
    effect = (model(value) - model(alone.reshape(-1, *value.shape))).reshape(value.shape)
    captum = Captum(model).attribute(value[None], n_steps=32)[0]
    return {
        "ehrseq integrated_gradients": total * value,
        "ehrseq gradient_x_input": slope * value,
        "ehrseq occlusion": effect,
        "captum IntegratedGradients": captum,
        "captum Saliency": Saliency(model).attribute(value[None])[0],
    }


def areas(truth: NDArray[np.bool_], weight: NDArray[np.floating]) -> tuple[float, float, float]:
    """AUPRC, and the areas under precision and recall over thresholds of weights scaled to 0 to 1 (AUP, AUR)."""
    scaled = (weight - weight.min()) / max(weight.max() - weight.min(), 1e-12)
    flat, wanted = scaled.ravel(), truth.ravel()
    thresholds = np.unique(flat)
    order = np.argsort(flat)
    hits = np.append(np.cumsum(wanted[order][::-1])[::-1], 0)
    at = np.searchsorted(flat[order], thresholds)
    recall = hits[at] / wanted.sum()
    precision = hits[at] / (len(flat) - at)
    aup, aur = (float(np.trapezoid(line, thresholds)) for line in (precision, recall))
    return average_precision(wanted.astype(float), flat), aup, aur


if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    if command == "rare":
        rare()
    elif command in ("speed", "trials"):
        {"speed": speed, "trials": trials}[command](folders[0])
    else:
        {"planted": planted, "stability": stability, "aids": aids}[command](folders)
