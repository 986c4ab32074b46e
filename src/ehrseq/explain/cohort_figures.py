"""Pictures of a cohort's explanations: what matters, how values drive the risk, how far it can be believed."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ehrseq.explain.faithfulness import FRACTIONS
from ehrseq.explain.judge import RANDOM, SHUFFLED, UNTRAINED
from ehrseq.explain.person import Glossary
from ehrseq.explain.rows import shorten
from ehrseq.explain.verdict import Verdict, words_for
from ehrseq.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, YELLOW, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, YELLOW, "black")
_CONTROLS = {SHUFFLED: "#707070", UNTRAINED: "#A0A0A0", RANDOM: "#C8C8C8"}
_CODES = 20
_WEIGHT = "mean contribution a history, without its sign"


def draw_importance(importance: pl.DataFrame, explainer: str, glossary: Glossary, path: Path) -> None:
    """Draw the codes and the stretches of time that weigh most, with intervals.

    Args:
        importance: From `Cohort.importance`.
        explainer: Whose.
        glossary: What codes are called.
        path: PNG to write.
    """
    own = importance.filter(pl.col("explainer") == explainer)
    codes = own.filter(pl.col("kind") == "code").sort("rank").head(_CODES)
    times = own.filter(pl.col("kind") == "time").sort("hours_from")
    with new_figure(path, 11.0, 1.2 + 0.27 * max(codes.height, 8)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        names = [shorten(glossary.name(code), 34) for code in codes["name"]]
        colours = [VERMILION if (value or 0) > 0 else BLUE for value in codes["direction"]]
        _bars(left, codes, names, colours)
        left.set(title=f"What weighs most, by {words_for(explainer)}", xlabel=_WEIGHT)
        signs = "red: on the whole raises the score; blue: lowers it"
        left.annotate(signs, (1, 0.02), xycoords="axes fraction", ha="right", fontsize=8, color=GREY)
        _bars(right, times, times["name"].to_list(), [GREY] * times.height)
        right.set(title="Time before prediction", xlabel=_WEIGHT)


def _bars(axes: "Axes", table: pl.DataFrame, names: Sequence[str], colours: Sequence[str]) -> None:
    value = table["importance"].to_numpy()
    known = table["ci_low"].is_not_null().to_numpy()
    low, high = (table[name].fill_null(0).to_numpy() for name in ("ci_low", "ci_high"))
    error = np.where(known, np.maximum(np.stack([value - low, high - value]), 0), 0)
    axes.barh(range(len(value)), value, xerr=error, color=colours, error_kw={"lw": 1, "ecolor": "#333"})
    axes.set_yticks(range(len(value)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def draw_dependence(dependence: pl.DataFrame, glossary: Glossary, explainer: str, path: Path) -> None:
    """Draw how contributions follow values, a panel a code.

    Args:
        dependence: From `Cohort.dependence`, with `amount`, the value in the unit of its code.
        glossary: What codes are called.
        explainer: Whose contributions.
        path: PNG to write.
    """
    codes = dependence["code"].unique(maintain_order=True).to_list()
    rows = max(-(-len(codes) // 3), 1)
    with new_figure(path, 10.0, 0.6 + 2.3 * rows) as figure:
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes, code in zip(panels, codes, strict=False):
            own = dependence.filter(pl.col("code") == code)
            axes.axhline(0, color=GREY, lw=0.8)
            axes.fill_between(own["amount"], own["ci_low"], own["ci_high"], color=BLUE, alpha=0.2, lw=0)
            axes.plot(own["amount"], own["contribution"], color=BLUE, marker="o", ms=3)
            unit = glossary.units.get(code)
            axes.set_title(shorten(glossary.name(code), 34), fontsize=9)
            axes.set_xlabel(unit or "value", fontsize=8)
            axes.tick_params(labelsize=8)
        for axes in panels[len(codes) :]:
            axes.set_axis_off()
        figure.supylabel(f"contribution of one measurement ({words_for(explainer)})", fontsize=9)


def draw_verdict(verdict: Verdict, path: Path) -> None:
    """Draw how far explainers can be believed: what is lost without what they name, and what they should depend on.

    Args:
        verdict: What was found.
        path: PNG to write.
    """
    controls = [name for name in _CONTROLS if f"{name}/comprehensiveness" in verdict.metrics]
    names = [*verdict.ranking, *controls]
    colours = dict(zip(verdict.ranking, _COLOURS * 3, strict=False)) | _CONTROLS
    with new_figure(path, 12.5, 8.4) as figure:
        (curves, bars), (trust, pairs) = figure.subplots(2, 2)
        figure.suptitle("\n".join(textwrap.wrap(verdict.sentence, 150)), fontsize=10, x=0.01, ha="left")
        share = [0.0, *FRACTIONS, 1.0]
        at = range(len(share))
        for name in names:
            lost = [0.0, *[_value(verdict, f"{name}/lost_{part * 100:.0f}") for part in share[1:]]]
            style = "--" if name in _CONTROLS else "-"
            curves.plot(at, lost, style, color=colours[name], lw=1.8)
        curves.set_xticks(at, [f"{part:.0%}" for part in share], fontsize=8)
        curves.set(
            title="Fall of the score without the events named first\n(colours as on the right)",
            ylabel="fall of the score",
        )
        curves.set_xlabel("share of the events taken away")
        _estimates(bars, verdict, names, colours)
        bars.set_title("Mean fall at 1, 5, 10 and 20%")
        _trust_bars(trust, verdict)
        _agreement(pairs, verdict)


def _value(verdict: Verdict, name: str) -> float:
    found = verdict.metrics.get(name)
    return float("nan") if found is None or found.value is None else found.value


def _estimates(axes: "Axes", verdict: Verdict, names: Sequence[str], colours: dict[str, str]) -> None:
    found = [verdict.metrics[f"{name}/comprehensiveness"] for name in names]
    value = np.array([item.value or 0.0 for item in found])
    low = np.array([item.value or 0.0 if item.ci_low is None else item.ci_low for item in found])
    high = np.array([item.value or 0.0 if item.ci_high is None else item.ci_high for item in found])
    error = np.maximum(np.stack([value - low, high - value]), 0)
    axes.barh(range(len(names)), value, xerr=error, color=[colours[name] for name in names], error_kw={"lw": 1})
    axes.set_yticks(range(len(names)), [words_for(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=0.8)


def _trust_bars(axes: "Axes", verdict: Verdict) -> None:
    at = np.arange(len(verdict.ranking))
    every = (
        ("noise", "a little noise on the values: should be near 1", SKY),
        ("seeds", "training with other seeds: should be near 1", BLUE),
        ("untrained", "weights in random order: should be near 0", ORANGE),
        (SHUFFLED, "training on permuted labels: should be near 0", VERMILION),
    )
    kinds = [kind for kind in every if f"{verdict.ranking[0]}/{kind[0]}" in verdict.metrics]
    height = 0.76 / len(kinds)
    for offset, (figure, label, colour) in enumerate(kinds):
        values = [_value(verdict, f"{name}/{figure}") for name in verdict.ranking]
        place = at + height * (offset - (len(kinds) - 1) / 2)
        axes.barh(place, values, height=0.95 * height, color=colour, label=label)
    axes.set_yticks(at, [words_for(name) for name in verdict.ranking], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set(title="Rank correlation with the explanation after ...", xlim=(min(0.0, axes.get_xlim()[0]), 1.0))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _agreement(axes: "Axes", verdict: Verdict) -> None:
    names = verdict.ranking
    table = np.eye(len(names))
    for row, one in enumerate(names):
        for column, other in enumerate(names):
            for pair in (f"{one}~{other}", f"{other}~{one}"):
                if f"{pair}/agreement" in verdict.metrics:
                    table[row, column] = _value(verdict, f"{pair}/agreement")
    axes.grid(visible=False)
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row, column in np.ndindex(table.shape):
        ink = "white" if table[row, column] > 0.6 else "black"
        axes.text(column, row, f"{table[row, column]:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(names)), [words_for(name) for name in names], rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), [words_for(name) for name in names], fontsize=8)
    axes.set_title("Agreement (rank correlation)")
