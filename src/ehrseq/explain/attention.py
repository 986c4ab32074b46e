"""Attention weights of whole cohorts as a tidy table."""

from collections.abc import Iterable

import numpy as np
import polars as pl

from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import RunError
from ehrseq.nn import Prediction
from ehrseq.store import Store


def attention_table(
    outputs: Iterable[tuple[SequenceBatch, Prediction]], store: Store, bin_hours: float
) -> pl.DataFrame:
    """One row a real step of each history.

    Args:
        outputs: Batches and what the network said about them.
        store: Where the histories come from.
        bin_hours: Width of a step.

    Returns:
        `sample`, `subject_id`, `prediction_time`, `step` (from 0), `hours_before` (from the end of the step to
        prediction_time), `attention` (sums to one over a history), `probability`; sorted by sample and step.

    Raises:
        RunError: If the model gives no attention.
    """
    parts = []
    for batch, prediction in outputs:
        if prediction.attention is None:
            raise RunError(
                "this model's pooling gives no weights to show; train with model/pooling=attention, or explain=none"
            )
        lengths = batch.lengths.cpu().numpy()
        samples = batch.samples.cpu().numpy()
        step = np.concatenate([np.arange(length) for length in lengths])
        row = np.repeat(np.arange(len(lengths)), lengths)
        parts.append(
            pl.DataFrame(
                {
                    "sample": samples[row],
                    "step": step,
                    "hours_before": (lengths[row] - 1 - step) * bin_hours,
                    "attention": prediction.attention.cpu().float().numpy()[row, step],
                    "probability": prediction.logits.cpu().double().sigmoid().numpy()[row],
                }
            )
        )
    table = pl.concat(parts).sort("sample", "step")
    sample = table["sample"].to_numpy()
    time = pl.Series("prediction_time", store.arrays.sample_time[sample]).cast(pl.Datetime("us"))
    return table.select(
        "sample",
        pl.Series("subject_id", store.subjects_of(sample)),
        time,
        "step",
        "hours_before",
        "attention",
        "probability",
    )


def cohort_attention(table: pl.DataFrame, groups: int = 10, smallest: int = 11) -> pl.DataFrame:
    """Mean attention by group of predicted risk and time before prediction.

    Args:
        table: From `attention_table`.
        groups: Groups of equal size, from the lowest risk to the highest.
        smallest: Cells of fewer histories are left out, so that nobody can be singled out.

    Returns:
        `risk_group` (1 is the lowest), `hours_before`, `histories`, `attention`, sorted.
    """
    risks = (
        table.group_by("sample").agg(pl.col("probability").first()).sort("probability", "sample").with_row_index("rank")
    )
    risks = risks.select(
        "sample", (pl.col("rank") * groups // max(risks.height, 1) + 1).cast(pl.Int64).alias("risk_group")
    )
    return (
        table.join(risks, on="sample")
        .group_by("risk_group", "hours_before")
        .agg(pl.len().alias("histories"), pl.col("attention").cast(pl.Float64).mean())
        .filter(pl.col("histories") >= smallest)
        .sort("risk_group", "hours_before")
    )


def choose_histories(table: pl.DataFrame, store: Store, count: int) -> list[int]:
    """Histories worth a picture: the highest risks, half of them with the outcome and half without.

    Args:
        table: From `attention_table`.
        store: Where the labels are.
        count: How many.
    """
    risks = (
        table.group_by("sample")
        .agg(pl.col("probability").first())
        .sort(["probability", "sample"], descending=[True, False])
    )
    samples = risks["sample"].to_numpy()
    label = store.arrays.sample_label[samples]
    positive, negative = samples[label == 1], samples[label != 1]
    chosen = [*positive[: (count + 1) // 2], *negative[: count // 2]]
    return [int(sample) for sample in chosen]
