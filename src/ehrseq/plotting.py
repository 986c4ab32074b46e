"""One figure style for the whole project: colour-blind safe, readable in print."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.lines import Line2D

# Okabe and Ito (2008): distinguishable with the common kinds of colour blindness and in grey.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#6B6B6B",
)
# Of several pictures of a kind: how many stand beside each other, and how large each is.
_BESIDE, _SMALLER = 3, 0.85
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


@contextmanager
def new_figure(path: Path, width: float = 6.0, height: float = 4.5) -> Iterator["Figure"]:
    """Give an empty figure in the project's style and save it to `path` when the block ends well.

    The figure is not registered with pyplot, so that nothing is left open and no display is needed.

    Args:
        path: PNG file to write.
        width: Inches.
        height: Inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        # No creation date or software version: the same figure is the same bytes.
        figure.savefig(path, metadata={"Software": None})


# For pages: text stays text, and the same figure is the same bytes.
_PAGE = {"svg.fonttype": "none", "svg.hashsalt": "ehrseq", "savefig.bbox": "standard"}
_TOLD = "_ehrseq_told"


@contextmanager
def new_chart(path: Path, words: str, width: float = 6.0, height: float = 4.5) -> Iterator["Figure"]:
    """Give an empty figure; when the block ends well it is saved as PNG, and as SVG that pages can make answer.

    The SVG carries the points of every labelled line as `data-hover`, in shares of the picture, with what to say of
    each: a page with the script of `ehrseq.reporting` shows them under the pointer, one without it shows the picture.

    Args:
        path: PNG file to write; the SVG lies beside it.
        words: What it shows, for those who do not see it.
        width: Inches.
        height: Inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE | _PAGE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, metadata={"Software": None, "Description": words}, pil_kwargs={"compress_level": 3})
        # The layout is settled now, and need not be found again.
        figure.set_layout_engine("none")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        hover = escape(json.dumps([_points(axes) for axes in figure.axes], separators=(",", ":")))
        begin = f'<svg role="img" aria-label="{escape(words)}" data-hover="{hover}" '
        text = buffer.getvalue()
        text = text[text.index("<svg") :].replace("<svg ", begin, 1)
        text = re.sub(r"font: ([^;]*?)'DejaVu Sans'[^;\"]*", r"font: \1'DejaVu Sans', Verdana, sans-serif", text)
        path.with_suffix(".svg").write_text(text, encoding="utf-8")


@contextmanager
def new_charts(path: Path, words: str, count: int, width: float, height: float) -> "Iterator[list[FigureBase]]":
    """Places for so many pictures of a kind in one figure, a few beside each other; see `new_chart`.

    Args:
        path: PNG file to write.
        words: What the figure shows.
        count: How many.
        width: Of one that is alone, inches; several are smaller.
        height: Likewise.
    """
    columns = min(count, _BESIDE)
    rows = -(-count // _BESIDE)
    scale = 1.0 if count == 1 else _SMALLER
    with new_chart(path, words, scale * width * columns, scale * height * rows) as figure:
        places = [figure] if count == 1 else figure.subfigures(rows, columns, squeeze=False).flat
        yield list(places)[:count]


def short(name: str, longest: int = 30) -> str:
    """A name that fits."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def tell(line: "Line2D", words: Sequence[str]) -> None:
    """Say what a page shows when the pointer is at each point of a line."""
    setattr(line, _TOLD, list(words))


def _points(axes: "Axes") -> dict[str, Any]:
    """Where the axes are and the points of their labelled lines, in shares of the picture from the upper left."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    size = figure.bbox.size
    box = axes.get_window_extent()
    series = []
    for line in axes.get_lines():
        label = str(line.get_label())
        if label.startswith("_"):
            continue
        data = np.asarray(line.get_xydata(), np.float64)
        places = line.get_transform().transform(data) / size
        own = getattr(line, _TOLD, None)
        words = own or [f"{axes.get_xlabel()} {x:.3g}, {axes.get_ylabel()} {y:.3g}" for x, y in data]
        points = [
            [round(float(x), 4), round(float(1 - y), 4), text]
            for (x, y), text in zip(places, words, strict=True)
            if np.isfinite(x) and np.isfinite(y)
        ]
        series.append({"name": label, "points": points})
    edges = [box.x0 / size[0], 1 - box.y1 / size[1], box.x1 / size[0], 1 - box.y0 / size[1]]
    return {"box": [round(float(edge), 4) for edge in edges], "series": series}
