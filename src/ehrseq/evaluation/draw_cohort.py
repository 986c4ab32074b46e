"""The picture of the cohort: the way from records to predictions, and what was measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ehrseq.plotting import BLUE, GREY, SKY, new_chart, short, tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = 30
_LONGEST = 34


def draw_cohort(tables: dict[str, pl.DataFrame], splits: dict[str, str], path: Path) -> None:
    """Boxes of the flow with how many are left, and bars of the share of subjects that have each code.

    Args:
        tables: `attrition` and `missingness`.
        splits: What to say of each split.
        path: PNG to write.
    """
    codes = tables["missingness"].head(_ROWS)
    flow = tables["attrition"]
    boxes = [_box(step, left) for step, left in zip(flow["step"], flow["left"], strict=True)]
    height = max(1.0 + 0.21 * codes.height, 1.2 + 0.75 * (len(boxes) + 1), 3.0)
    with new_chart(path, "The cohort: flow and missingness", 10, height) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
        left.set_axis_off()
        # A step of the flow is about an inch, however many codes stand beside it.
        left.set(xlim=(0, 1), ylim=(max(len(boxes) + 1.2, height - 1.5), -0.5))
        left.set_title("From records to predictions")
        style = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": BLUE}
        for number, words in enumerate(boxes):
            left.text(0.5, number, words, ha="center", va="center", fontsize=9, bbox=style)
            lost = flow["left_out"][number + 1] if number + 1 < flow.height else None
            if number + 1 < len(boxes) and lost:
                left.text(0.53, number + 0.5, f"{lost:,} left out", ha="left", va="center", fontsize=8, color=GREY)
            _arrow(left, 0.5, number + 0.22, 0.5, number + 0.78)
        for number, (name, words) in enumerate(splits.items()):
            x = (number + 0.5) / len(splits)
            left.text(
                x, len(boxes), f"{name}\n{words}", ha="center", va="center", fontsize=8, bbox=style | {"ec": GREY}
            )
        names = [short(name, _LONGEST) for name in codes["code"]]
        place = np.arange(codes.height)
        share = 100 * codes["measured"].cast(pl.Float64).to_numpy()
        bound = codes["bound"].to_numpy()
        right.barh(place, share, color=SKY, height=0.75)
        right.barh(place[bound], share[bound], color="white", ec=SKY, hatch="///", height=0.75)
        (line,) = right.plot(share, place, "o", ms=3, color=BLUE, label="measured")
        tell(line, [_words(item) for item in codes.iter_rows(named=True)])
        right.set_yticks(place, names, fontsize=8)
        right.set(
            title="Measured at least once",
            xlabel="% of subjects" + (" (hatched: hidden, few are without it)" if bound.any() else ""),
            xlim=(0, 101),
            ylim=(codes.height - 0.4, -0.6),
        )
        right.grid(visible=False, axis="y")


def _words(item: dict[str, Any]) -> str:
    share = f"{item['measured']:.1%} of subjects"
    if item["bound"]:
        share = ("at least " if item["measured"] > 0.5 else "at most ") + share
    times = item["events_a_subject"]
    return f"{item['code']}: {share}" + ("" if times is None else f", {times:.1f} times each")


def _box(step: str, left: int | None) -> str:
    return f"{step}\n{left:,}" if left is not None else f"{step}\n(number hidden: few left out)"


def _arrow(axes: "Axes", x0: float, y0: float, x1: float, y1: float) -> None:
    axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "color": GREY, "lw": 1})
