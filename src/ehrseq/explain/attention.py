"""Attention weights of whole cohorts as a tidy table."""

from collections.abc import Callable, Iterable

import numpy as np
import polars as pl
from torch import Tensor

from ehrseq.data.batch import SequenceBatch
from ehrseq.errors import RunError
from ehrseq.nn import Prediction
from ehrseq.store import Store


def attention_table(
    outputs: Iterable[tuple[SequenceBatch, Prediction]], store: Store, risk: Callable[[Tensor], Tensor]
) -> pl.DataFrame:
    """One row a real step of each history.

    Args:
        outputs: Batches and what the network said about them.
        store: Where the histories come from.
        risk: Outputs to one number a history, `Objective.risk`.

    Returns:
        `sample`, `subject_id`, `prediction_time`, `step` (from 0), `hours_before` (from the end of the step to
        prediction_time), `attention` (sums to one over a history), `risk` ; sorted by sample and step.

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
                    "hours_before": batch.hours_before.cpu().double().numpy()[row, step],
                    "attention": prediction.attention.cpu().float().numpy()[row, step],
                    "risk": risk(prediction.output.double()).cpu().numpy()[row],
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
        "risk",
    )


def choose_bin_hours(table: pl.DataFrame, columns: int = 48) -> float:
    """A bin width, in whole hours, with which most histories fill about so many columns; for steps without width."""
    longest = table.group_by("sample").agg(pl.col("hours_before").max())["hours_before"].quantile(0.75)
    return float(max(np.ceil((longest or 0) / columns), 1))


def cohort_attention(
    table: pl.DataFrame, bin_hours: float, groups: int = 10, smallest: int = 11, columns: int = 96
) -> pl.DataFrame:
    """Mean attention by group of predicted risk and time before prediction.

    Args:
        table: From `attention_table`.
        bin_hours: Width of a bin of time; the attention of a history's steps in it is summed.
        groups: Groups of equal size, from the lowest risk to the highest.
        smallest: Cells of fewer histories are left out, so that nobody can be singled out.
        columns: Bins counted back from the prediction; what is older is left out.

    Returns:
        `risk_group` (1 is the lowest), `hours_before` (from the end of the bin), `histories` (that reach back so far),
        `attention`, sorted.
    """
    risks = table.group_by("sample").agg(pl.col("risk").first()).sort("risk", "sample").with_row_index("rank")
    risks = risks.select(
        "sample", (pl.col("rank") * groups // max(risks.height, 1) + 1).cast(pl.Int64).alias("risk_group")
    )
    # Half a millionth of a bin: hours are float32.
    binned = table.with_columns((pl.col("hours_before") / bin_hours + 1e-6).floor().cast(pl.Int64).alias("bin"))
    binned = binned.group_by("sample", "bin").agg(pl.col("attention").cast(pl.Float64).sum())
    reach = (
        binned.group_by("sample")
        .agg(pl.col("bin").max())
        .select("sample", pl.int_ranges(0, pl.min_horizontal(pl.col("bin") + 1, columns)).alias("bin"))
    )
    # Bins in which a history has no step got none of its attention.
    cells = reach.explode("bin").join(binned, on=["sample", "bin"], how="left", maintain_order="left")
    return (
        cells.join(risks, on="sample")
        .with_columns(pl.col("attention").fill_null(0.0))
        .group_by("risk_group", "bin")
        .agg(pl.len().alias("histories"), pl.col("attention").sort().mean())
        .filter(pl.col("histories") >= smallest)
        .select("risk_group", (pl.col("bin") * bin_hours).alias("hours_before"), "histories", "attention")
        .sort("risk_group", "hours_before")
    )


def choose_histories(table: pl.DataFrame, store: Store, count: int, column: int = -1) -> list[int]:
    """Histories worth a picture: the highest risks, half of them with the outcome and half without.

    Args:
        table: From `attention_table`.
        store: Where the labels are.
        count: How many.
        column: Which of the outcomes counts: the last says yes or no, or which event it was.
    """
    risks = table.group_by("sample").agg(pl.col("risk").first()).sort(["risk", "sample"], descending=[True, False])
    samples = risks["sample"].to_numpy()
    outcome = store.arrays.sample_label[samples, column]
    known = outcome[~np.isnan(outcome)]
    # Of what is not yes or no the upper half stands for yes.
    label = outcome > (0 if len(np.unique(known)) < 3 else np.median(known))
    positive, negative = samples[label], samples[~label]
    chosen = [*positive[: (count + 1) // 2], *negative[: count // 2]]
    return [int(sample) for sample in chosen]
