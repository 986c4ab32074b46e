"""One figure style for the whole project: colour-blind safe, readable in print."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
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
