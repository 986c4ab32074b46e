"""Pictures of single histories and of attention.

A timeline shows hours before prediction and what events contribute, never dates, identifiers or values: it may go where
the data may not.
"""

from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.explain.person import Glossary, Person
from ehrseq.explain.rows import lay_out, shorten
from ehrseq.plotting import BLUE, GREY, VERMILION, new_figure


def draw_timeline(person: Person, glossary: Glossary, title: str, explainer: str, path: Path) -> None:
    """Draw a history: risk over time above, attention where there is any, contributions of events below.

    Args:
        person: The explained history.
        glossary: What codes are called.
        title: Says which history, without an identifier.
        explainer: The explainer's name in words.
        path: PNG to write.
    """
    layout = lay_out(person, glossary)
    factor = 24.0 if layout.unit == "days" else 1.0
    below = 0.24 * max(len(layout.names), 4) + 0.5
    heights = [1.3, *([0.7] if person.attention is not None else []), below]
    with new_figure(path, 10.0, sum(heights) + 1.0) as figure:
        ratios = {"height_ratios": heights, "width_ratios": [8, 1.2]}
        axes = figure.subplots(len(heights), 2, sharex="col", squeeze=False, gridspec_kw=ratios)
        for unused in axes[:-1, 1]:
            unused.set_axis_off()
        first, main, sums = axes[0, 0], axes[-1, 0], axes[-1, 1]
        hours, risk = person.path["hours"].to_numpy() / factor, person.path["risk"].to_numpy()
        first.plot(hours, risk, color="black", lw=1.6)
        first.set(title=title, ylabel="risk so far", ylim=(0, max(risk.max() * 1.15, 1e-3)))
        if person.attention is not None:
            weights = person.attention["attention"].to_numpy()
            axes[1, 0].vlines(person.attention["hours"] / factor, 0, weights, color=GREY, lw=1.4)
            axes[1, 0].axhline(1 / len(weights), color="black", lw=0.7, ls="--")
            axes[1, 0].annotate("even", (layout.oldest, 1 / len(weights)), fontsize=8, va="bottom", ha="left")
            axes[1, 0].set(ylabel="attention", ylim=(0, None))
        events = layout.timed.sort(pl.col("contribution").abs())
        contribution = events["contribution"].to_numpy()
        size = np.sqrt(np.abs(contribution) / layout.largest)
        main.scatter(
            events["when"],
            events["row"],
            s=6 + 90 * size**2,
            c=[VERMILION if value > 0 else BLUE for value in contribution],
            alpha=0.15 + 0.7 * size,
            linewidths=0,
        )
        main.set_yticks(range(len(layout.names)), [shorten(name, 34) for name in layout.names], fontsize=8)
        main.set(xlabel=f"{layout.unit} before prediction", xlim=(layout.oldest, 0))
        main.set_ylim(len(layout.names) - 0.5, -0.5)
        sums.barh(range(len(layout.totals)), layout.totals, color=[VERMILION if t > 0 else BLUE for t in layout.totals])
        sums.axvline(0, color=GREY, lw=0.8)
        sums.set(ylim=main.get_ylim(), yticks=[], xlabel="sum")
        sums.tick_params(axis="x", labelsize=7)
        figure.supxlabel(
            f"contributions to the score by {explainer}: red raises, blue lowers; the larger, the more",
            fontsize=8,
            color=GREY,
        )


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
