"""Pictures of attention: one history on a timeline, a cohort as a heat map.

A timeline shows hours before prediction and how far values lie from the train centre, never dates, identifiers or raw
values: it may go where the data may not.
"""

from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.plotting import BLUE, GREY, new_figure
from ehrseq.store import Store
from ehrseq.store.format import HOUR

_ROWS = 28  # codes that fit a readable page


def draw_timeline(store: Store, table: pl.DataFrame, title: str, bin_hours: float | None, path: Path) -> None:
    """Draw what happened when, and where the attention lies.

    Args:
        store: Where the events are.
        table: The rows of one history, from `attention_table`.
        title: Says which history, without an identifier.
        bin_hours: Width of a step; None where steps have none.
        path: PNG to write.
    """
    sample = int(table["sample"][0])
    arrays = store.arrays
    events = slice(int(arrays.sample_begin[sample]), int(arrays.sample_end[sample]))
    hours = (arrays.sample_time[sample] - arrays.time[events]) / HOUR
    reach = float(table["hours_before"].max() or 0)  # type: ignore[arg-type]
    oldest = reach + (bin_hours or max(reach * 0.01, 0.1))
    inside = hours <= oldest
    hours, code, value = hours[inside], arrays.code[events][inside], arrays.value[events][inside]
    shown = _rows_to_show(code, value)
    position = {int(number): row for row, number in enumerate(shown)}
    keep = np.isin(code, shown)
    row = np.array([position[int(number)] for number in code[keep]])
    numeric = ~np.isnan(value[keep])
    with new_figure(path, 9.0, 2.6 + 0.22 * max(len(shown), 4)) as figure:
        top, main = figure.subplots(2, 1, sharex=True, height_ratios=[1.3, 0.22 * max(len(shown), 4) + 0.6])
        if bin_hours is None:
            top.vlines(table["hours_before"], 0, table["attention"], color=BLUE, lw=1.2)
        else:
            top.bar(table["hours_before"] + bin_hours / 2, table["attention"], width=bin_hours * 0.92, color=BLUE)
        top.axhline(1 / table.height, color=GREY, lw=0.8, ls="--")
        top.annotate("even", (oldest, 1 / table.height), color=GREY, fontsize=8, va="bottom", ha="left")
        top.set(title=title, ylabel="attention", ylim=(0, None))
        main.scatter(hours[keep][~numeric], row[~numeric], marker="|", s=70, color="black", lw=1.4)
        dots = main.scatter(
            hours[keep][numeric],
            row[numeric],
            c=value[keep][numeric],
            cmap="RdBu_r",
            vmin=-3,
            vmax=3,
            s=22,
            ec="#555",
            lw=0.3,
        )
        main.set_yticks(range(len(shown)), [_short(store.codes[number]) for number in shown], fontsize=8)
        main.set(xlabel="hours before prediction", xlim=(oldest, 0), ylim=(len(shown) - 0.5, -0.5))
        figure.colorbar(dots, ax=[top, main], label="value, in spreads from the train centre", shrink=0.6, pad=0.01)


def _rows_to_show(code: np.ndarray, value: np.ndarray) -> list[int]:
    """Codes in the order of their names; where there are too many, those that deviate most."""
    present = np.unique(code)
    if len(present) <= _ROWS:
        return [int(number) for number in present]
    deviation = np.abs(np.nan_to_num(value, nan=1.0))
    largest = np.array([deviation[code == number].max() for number in present])
    return sorted(int(number) for number in present[np.argsort(-largest, kind="stable")[:_ROWS]])


def _short(code: str) -> str:
    return code if len(code) <= 34 else f"{code[:33]}…"


def draw_heat_map(cohort: pl.DataFrame, bin_hours: float, path: Path) -> None:
    """Draw the mean attention of a cohort: predicted risk against time before prediction.

    Args:
        cohort: From `cohort_attention`.
        bin_hours: Width of a step.
        path: PNG to write.
    """
    groups = int(cohort["risk_group"].max() or 1)  # type: ignore[arg-type]
    columns = round(float(cohort["hours_before"].max() or 0) / bin_hours) + 1  # type: ignore[arg-type]
    cells = np.full((groups, columns), np.nan)
    at = (cohort["hours_before"] / bin_hours).round().cast(pl.Int64).to_numpy()
    cells[cohort["risk_group"].to_numpy() - 1, at] = cohort["attention"].to_numpy()
    with new_figure(path, 9.0, 4.2) as figure:
        axes = figure.subplots()
        axes.grid(visible=False)
        edge = columns * bin_hours
        image = axes.imshow(
            cells[:, ::-1], aspect="auto", origin="lower", cmap="viridis", extent=(edge, 0, 0.5, groups + 0.5), vmin=0
        )
        axes.set(
            title="Where the attention lies, by predicted risk",
            xlabel="hours before prediction (white: fewer than 11 histories)",
            ylabel="risk group, 1 = lowest",
        )
        axes.set_yticks(range(1, groups + 1))
        figure.colorbar(image, ax=axes, label="mean attention")
