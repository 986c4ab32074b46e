"""From trained weights to explanations: who was looked at when."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehrseq.config.schema import Settings
from ehrseq.config.targets import SeveralTarget, columns_of
from ehrseq.files import atomic_folder, is_current, write_manifest
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.evaluate import describe_outcome
from ehrseq.workflows.prepare import Prepared, check_same_data
from ehrseq.workflows.runs import EXPLAIN, TrainedRun

ATTENTION, COHORT, HEAT_MAP = "attention.parquet", "cohort_attention.csv", "cohort_attention.png"


@dataclass(frozen=True)
class Explained:
    """What `explain` gives: the folder with the table and the figures."""

    folder: Path


def explain_key(settings: Settings, trained: TrainedRun) -> dict[str, Any]:
    """What determines this workflow's output."""
    return {"weights": trained.weights_digest, "explain": settings.explain.plain()}


def run(settings: Settings, prepared: Prepared, trained: TrainedRun) -> Explained:
    """Explain a run's predictions on a split.

    Writes `explain/`: the attention of every history (`attention.parquet`), its mean over the cohort as table and
    heat map, and timelines of some histories.

    Raises:
        DataError: If the data are not those of the training.
        RunError: If the model gives no attention.
    """
    from ehrseq.data import HistoryDataset, represent
    from ehrseq.explain.attention import attention_table, choose_bin_hours, choose_histories, cohort_attention
    from ehrseq.explain.figures import draw_heat_map, draw_timeline
    from ehrseq.training import inference

    check_same_data(prepared, trained.key)
    key = explain_key(settings, trained)
    folder = trained.folder / EXPLAIN
    if not settings.force and is_current(folder, key):
        say(f"explain: {folder} is up to date")
        return Explained(folder)
    model = trained.model()
    with atomic_folder(folder) as staging, timed("explain: attention read, figures drawn"):
        store = prepared.open()
        representation = represent(store, trained.settings.representation)
        dataset = HistoryDataset(representation, store.samples(settings.explain.split))
        device = inference.choose_device(settings.trainer.accelerator)
        outputs = inference.predictions(model, dataset.ordered(settings.loader), device)
        table = attention_table(outputs, store, model.objective.risk)
        table.drop("sample").write_parquet(staging / ATTENTION)
        width = representation.bin_hours or choose_bin_hours(table)
        cohort = cohort_attention(table, width)
        cohort.write_csv(staging / COHORT)
        draw_heat_map(cohort, width, staging / HEAT_MAP)
        target = trained.target()
        first = columns_of(target)[0].outcomes.stop if isinstance(target, SeveralTarget) else 0
        chosen = choose_histories(table, store, settings.explain.timelines, first - 1)
        for number, sample in enumerate(chosen, start=1):
            rows = table.filter(table["sample"] == sample)
            outcome = describe_outcome(target, store.arrays.sample_label[sample])
            title = f"History {number} of {len(chosen)}: predicted risk {rows['risk'][0]:.2f}, outcome {outcome}"
            draw_timeline(store, rows, title, representation.bin_hours, staging / f"timeline_{number:02d}.png")
        write_manifest(staging, EXPLAIN, key, histories=dataset.samples.size)
    return Explained(folder)
