"""A forest plot: each configuration's figure with its interval, and how far it is from a reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ehrseq.plotting import BLUE, GREY, ORANGE, VERMILION, new_figure

Bar = tuple[float | None, float | None, float | None]
_ROW = 0.32  # inches


class Entry(NamedTuple):
    """A line of the plot.

    Attributes:
        name: The configuration.
        value: Its figure, lower and upper end of the interval.
        difference: From the reference, likewise; None for the reference itself.
        apart: Whether it is told apart from the reference.
        letters: Two that share a letter cannot be told apart; empty for none.
    """

    name: str
    value: Bar
    difference: Bar | None
    apart: bool
    letters: str


def draw_forest(entries: Sequence[Entry], path: Path, *, metric: str, reference: str, note: str) -> None:
    """Draw the figures of all configurations on the left, their differences from the reference on the right.

    Args:
        entries: Best first.
        path: PNG to write.
        metric: Its name, for the axes.
        reference: Name of the configuration that the others are compared with.
        note: A line below.
    """
    count = len(entries)
    longest = max(len(entry.name) for entry in entries)
    with new_figure(path, 7.5 + 0.06 * longest, 1.7 + _ROW * count) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for row, entry in enumerate(entries):
            is_reference = entry.difference is None
            _bar(left, row, entry.value, ORANGE if is_reference else BLUE)
            if entry.difference is not None:
                _bar(right, row, entry.difference, VERMILION if entry.apart else BLUE, filled=entry.apart)
            else:
                right.plot(0, row, marker="D", color=ORANGE, ms=6)
        right.axvline(0, color=GREY, lw=1, ls="--")
        left.set(yticks=range(count), ylim=(count - 0.4, -0.6), xlabel=metric)
        left.set_yticklabels([entry.name for entry in entries])
        left.set_title(metric, loc="left")
        right.set_title(f"difference from {reference}", loc="left")
        right.set_xlabel(f"difference in {metric}\nfilled: told apart; open: not; diamond: reference")
        right.grid(axis="y", visible=False)
        left.grid(axis="y", visible=False)
        if any(entry.letters for entry in entries):
            for row, entry in enumerate(entries):
                right.annotate(
                    entry.letters, (1.02, row), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
                )
        figure.text(0.01, -0.01, note, ha="left", va="top", fontsize=8, color=GREY)


def _bar(axes: object, row: int, bar: Bar, color: str, filled: bool = True) -> None:
    """A point with its interval; nothing where it is undefined."""
    value, low, high = bar
    if value is None:
        return
    ends = None if low is None or high is None else np.array([[max(value - low, 0)], [max(high - value, 0)]])
    axes.errorbar(  # type: ignore[attr-defined]
        [value], [row], xerr=ends, color=color, marker="o", ms=5.5, mfc=color if filled else "white", lw=1.6, capsize=3
    )
