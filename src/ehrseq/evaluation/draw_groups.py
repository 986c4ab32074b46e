"""Pictures of groups: for whom it works, when, on how long a history."""

from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.evaluation.statics import CALENDAR, EVENTS, HISTORY, OVER_TIME
from ehrseq.plotting import BLUE, GREY, VERMILION, new_chart, short, tell

_PANELS = (("auroc", "AUROC"), ("sensitivity", "sensitivity"), ("calibration_gap", "mean risk - observed"))
_ROW = 0.27  # inches


def draw_groups(groups: pl.DataFrame, overall: dict[str, float | None], path: Path) -> None:
    """A forest plot: each group with its interval beside the line of everybody; flagged gaps stand out.

    Args:
        groups: From `evaluate_subgroups` or `evaluate_other_subgroups`.
        overall: Everybody's figures, by the name of the column.
        path: PNG to write.
    """
    own = groups.filter(~pl.col("variable").is_in(OVER_TIME))
    panels = [(name, title) for name, title in _PANELS if name in own.columns]
    if not panels:
        name = own.columns[own.columns.index("subjects") + 1]
        panels = [(name, name.replace("_", " "))]
    labels, rows, row = list[tuple[float, str, bool]](), list[float](), 0.0
    variable = None
    for item in own.iter_rows(named=True):
        if item["variable"] != variable:
            row += 0.5 if variable is not None else 0
            labels.append((row, str(item["variable"]), True))
            variable, row = item["variable"], row + 1
        count = f"{item['subjects']:,}" if item["shown"] else "hidden"
        labels.append((row, f"{short(item['group'])} ({count})", False))
        rows.append(row)
        row += 1
    place = np.array(rows)
    words = f"Performance by group: {own.height} groups"
    with new_chart(path, words, 2.6 + 2.4 * len(panels), 1.1 + _ROW * max(row, 3)) as figure:
        all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for axes, (name, title) in zip(all_axes, panels, strict=True):
            value, low, high = (own[f"{name}{end}"].cast(pl.Float64).to_numpy() for end in ("", "_low", "_high"))
            flagged = np.zeros(own.height, bool)
            if "flags" in own.columns:
                gap = name if name.endswith("_gap") else f"{name}_gap"
                flagged = own["flags"].str.split(" ").list.contains(gap).to_numpy()
            for chosen, color, label, marker in ((~flagged, BLUE, "group", "o"), (flagged, VERMILION, "flagged", "D")):
                if not chosen.any():
                    continue
                axes.hlines(place[chosen], low[chosen], high[chosen], color=color, lw=1.5)
                (line,) = axes.plot(value[chosen], place[chosen], marker, color=color, ms=5, label=label)
                names = own.filter(pl.Series(chosen))
                tell(line, [_words(item, name, title) for item in names.iter_rows(named=True)])
            beside = {"transform": axes.get_yaxis_transform(), "color": GREY, "fontsize": 8, "va": "center"}
            for at, item in zip(rows, own.iter_rows(named=True), strict=True):
                if item[name] is None:
                    axes.text(0.03, at, _absent(item), **beside)
            middle = 0.0 if name.endswith("_gap") else overall.get(name)
            if middle is not None:
                axes.axvline(middle, color=GREY, lw=1, ls="--")
            axes.set(title=title, ylim=(row - 0.3, -0.7))
            axes.grid(visible=False, axis="y")
            axes.locator_params(axis="x", nbins=4)
        first = all_axes[0]
        first.set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels])
        for tick, (_, _, bold) in zip(first.get_yticklabels(), labels, strict=True):
            tick.set_fontweight("bold" if bold else "normal")
        first.tick_params(axis="y", length=0)
        for axes in all_axes[1:]:
            axes.tick_params(axis="y", length=0)
        figure.supxlabel(
            "dashed: everybody; diamonds: gap to everybody flagged after Holm's adjustment; in brackets: subjects",
            fontsize=8,
            color=GREY,
        )


def draw_over_time(groups: pl.DataFrame, overall: dict[str, float | None], path: Path) -> bool:
    """AUROC and calibration by calendar time and by length of history; False where neither divides."""
    panels = [name for name in OVER_TIME if (groups["variable"] == name).any()]
    if not panels or "auroc" not in groups.columns:
        return False
    titles = {CALENDAR: "calendar time", HISTORY: "length of history", EVENTS: "events in the history"}
    with new_chart(path, "Performance over time", 1 + 4.2 * len(panels), 3.6) as figure:
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True):
            own = groups.filter(pl.col("variable") == name)
            place = np.arange(own.height)
            value, low, high = (own[f"auroc{end}"].cast(pl.Float64).to_numpy() for end in ("", "_low", "_high"))
            axes.vlines(place, low, high, color=BLUE, lw=1.5)
            (line,) = axes.plot(place, value, "o-", color=BLUE, ms=5, lw=1, label="AUROC")
            tell(line, [_words(item, "auroc", "AUROC") for item in own.iter_rows(named=True)])
            if (middle := overall.get("auroc")) is not None:
                axes.axhline(middle, color=GREY, lw=1, ls="--")
            for number, item in enumerate(own.iter_rows(named=True)):
                if item["auroc"] is None:
                    axes.annotate(_absent(item), (number, 0.02), xycoords=("data", "axes fraction"), ha="center",
                                  color=GREY, fontsize=8)  # fmt: skip
            wide = max(len(str(group)) for group in own["group"]) * own.height > 40
            axes.set_xticks(place, own["group"].to_list(), rotation=30 if wide else 0, ha="right" if wide else "center")
            axes.set(title=f"AUROC by {titles[name]}", ylabel="AUROC", xlim=(-0.5, own.height - 0.5))
    return True


def _absent(item: dict[str, object]) -> str:
    """Why a group has no figure: it, or those in it with the outcome, are too few to be shown; or there is none."""
    return "hidden" if not item["shown"] or item.get("positives", 0) is None else "undefined"


def _words(item: dict[str, object], name: str, title: str) -> str:
    value, low, high = item[name], item[f"{name}_low"], item[f"{name}_high"]
    interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
    told = _absent(item) if value is None else f"{value:.3f}{interval}"
    return f"{item['variable']} {item['group']}: {title} {told}"


def has_groups(groups: pl.DataFrame) -> bool:
    """Whether there is anything for `draw_groups`."""
    return not groups.filter(~pl.col("variable").is_in(OVER_TIME)).is_empty()
