"""How good explanations are: planted truth, published synthetic benchmarks, stability across seeds, speed.

    python benchmarks/explanations.py published [TASK] [seeds=2] [quick]  # beside peers; quick: without masks
    python benchmarks/explanations.py planted RUN...    # on source=synthetic, by seed and training aid
    python benchmarks/explanations.py stability RUN...  # runs on one real data set that differ by their seeds
    python benchmarks/explanations.py speed RUN
    python benchmarks/explanations.py verdict RUN       # its processor time, of one thread
    python benchmarks/explanations.py trials RUN        # does the verdict tell good explainers from controls?

Each writes its part of `benchmarks/results/explanations.json`. RUN is a run folder of `ehrseq train`.
"""

import os
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from explanation_published import TASKS, published
from numpy.typing import NDArray

from ehrseq.config.load import load_settings
from ehrseq.data import HistoryDataset, Representation, represent
from ehrseq.explain.agreement import spearman
from ehrseq.explain.base import Explainer, score_of
from ehrseq.explain.cohort import Cohort, explained
from ehrseq.explain.gradients import IntegratedGradients
from ehrseq.explain.histories import StaticCodes
from ehrseq.explain.judge import RANDOM, UNTRAINED, Judge
from ehrseq.explain.planted import TRUTH, PlantedEvents, recovery
from ehrseq.explain.registry import cut_histories, make_explainers
from ehrseq.explain.verdict import reach_verdict
from ehrseq.explain.weights import Attention
from ehrseq.files import read_json, write_json
from ehrseq.metrics.binary import auroc
from ehrseq.nn import SequenceModel, step_mask
from ehrseq.store import Store
from ehrseq.training import inference
from ehrseq.workflows import prepare
from ehrseq.workflows.prepare import Prepared
from ehrseq.workflows.runs import TrainedRun, open_run

RESULTS = Path(__file__).parent / "results" / "explanations.json"
CPU = torch.device("cpu")
AIDS = ("attention_entropy", "attention_consistency", "attention_gradient")
EXPLAINERS = [
    "integrated_gradients",
    "gradient_x_input",
    "code_occlusion",
    "attention",
    "attention_by_event",
    "attention_x_gradient",
    "contributions",
]


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
    """Recovery of the planted events, and of the steps that hold them, by network, training aid and seed."""
    rows: dict[str, dict[str, list[float]]] = {}
    for folder in folders:
        run, prepared, store, representation, model = opened(folder)
        aids = {name: weight for name, weight in run.settings.loss.plain().items() if name in AIDS and weight}
        words = [f"{name}={weight:g}" for name, weight in aids.items()] or ["plain"]
        network = run.settings.model.name
        found = rows.setdefault(", ".join(words if network == "lstm" else [network, *words]), {})
        everything = store.samples("held_out")
        label = store.arrays.sample_label[everything, 0].astype(np.float64)
        scored = inference.score(model, HistoryDataset(representation, everything).ordered(run.settings.loader), CPU)
        histories = cut_histories(representation, everything[:count])
        truth = PlantedEvents(prepared.dataset / TRUTH, store).among(histories)
        present = histories.present.numpy()
        steps = np.zeros(tuple(histories.batch.hours_before.shape), bool)
        row, part = np.nonzero(truth)
        step = histories.step.expand(len(histories), -1).numpy()[row, part]
        steps[row[step >= 0], step[step >= 0]] = True
        real = step_mask(histories.batch.lengths, histories.batch.steps).numpy()
        generator = np.random.default_rng(0)
        there = truth.any(1)
        measured = {
            "auroc": auroc(label, scored.prediction[:, 0]),
            "base_rate": float((truth.sum(1)[there] / present.sum(1)[there]).mean()),
            "random": float(np.nanmean(recovery(truth, generator.random(present.shape), present))),
            "random by step": float(np.nanmean(recovery(steps, generator.random(real.shape), real))),
        }
        for explainer in make_explainers(EXPLAINERS, model, 32, 6.0):
            attribution = explainer.attribute(histories)
            weight = attribution.parts.abs().numpy()
            measured[explainer.name] = float(np.nanmean(recovery(truth, weight, present)))
            if explainer.name == Attention.name and attribution.steps is not None:
                measured["attention by step"] = float(np.nanmean(recovery(steps, attribution.steps.numpy(), real)))
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    known = read_json(RESULTS).get("planted", {}) if RESULTS.is_file() else {}
    save(
        "planted",
        known
        | {
            aid: {name: {"mean": float(np.mean(values)), "seeds": values} for name, values in found.items()}
            for aid, found in rows.items()
        },
    )


def stability(folders: list[str]) -> None:
    """Rank correlation of the importance of codes on held_out between runs that differ by their seeds."""
    names = ["code_occlusion", "integrated_gradients"]
    weights: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    codes: tuple[str, ...] = ()
    for folder in folders:
        _, _, store, representation, model = opened(folder)
        codes = (*representation.names, *StaticCodes.of(store).names)
        cohort = Cohort(codes, len(representation.names))
        explainers = make_explainers(names, model, 16, 6.0)
        for histories, found in explained(explainers, representation, store.samples("held_out"), CPU):
            cohort.add(histories, found, "")
        for name, own in weights.items():
            own.append(np.concatenate([chunk[0] for chunk in cohort.by_code[name]]).mean(0))
    told: dict[str, Any] = {"runs": len(folders)}
    for name, own in weights.items():
        top = np.argsort(-np.mean(own, axis=0))[:20]
        pairs = [spearman(one[top], other[top]) for one, other in combinations(own, 2)]
        leading = [codes[number] for number in top]
        told[name] = {"spearman_top20": pairs, "mean": float(np.mean(pairs)), "top20": leading}
    save("stability", told)


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


def verdict(folder: str) -> None:
    """The verdict of explain=full, on as many histories as it judges of 4,000, which are all predicted first."""
    torch.set_num_threads(1)
    _, _, store, representation, model = opened(folder)
    options = load_settings(["explain=full"]).explain
    everything = np.sort(np.concatenate([store.samples(split) for split in ("train", "tuning", "held_out")]))[:4000]
    started, spent = perf_counter(), process_time()
    scored = [score for _, score in scores(model, representation, everything)]
    judged = np.sort(np.random.default_rng(0).permutation(everything)[: options.judged])

    def make(net: SequenceModel) -> list[Explainer]:
        return make_explainers(options.explainers, net, options.steps, options.window_hours)

    judge = Judge(model, make, float(np.concatenate(scored).mean()), None, seed=0)
    figures = judge.run(representation, judged, CPU, lambda: None)
    names = [explainer.name for explainer in judge.explainers]
    reach_verdict(figures, names, store.subjects_of(judged), replicates=1000, seed=0, level=0.95)
    save(
        "verdict",
        {
            "predicted": len(everything),
            "judged": len(judged),
            "explainers": names,
            "wall_seconds": perf_counter() - started,
            "processor_seconds": process_time() - spent,
            "load": os.getloadavg()[1],
        },
    )


def scores(
    model: SequenceModel, representation: Representation, samples: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The scores of many histories, chunk by chunk."""
    for part in np.array_split(samples, -(-len(samples) // 256)):
        with torch.no_grad():
            yield part, score_of(model, cut_histories(representation, part).batch).double().numpy()


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


if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    if command == "published":
        seeds = [int(word.removeprefix("seeds=")) for word in folders if word.startswith("seeds=")]
        for task in [word for word in folders if word in TASKS] or TASKS:
            known = read_json(RESULTS).get(f"published_{task}", {}) if RESULTS.is_file() else {}
            save(f"published_{task}", known | published(task, max([1, *seeds]), "quick" not in folders))
    elif command in ("speed", "trials", "verdict"):
        {"speed": speed, "trials": trials, "verdict": verdict}[command](folders[0])
    else:
        {"planted": planted, "stability": stability}[command](folders)
