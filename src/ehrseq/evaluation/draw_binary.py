"""Pictures of risks: ROC, precision and recall, calibration, usefulness. No point stands for a single person.

Each draws what is found of one outcome, or of several beside each other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ehrseq.evaluation.findings import Findings, Floats, Scored
from ehrseq.metrics import Estimate, precision_recall_curve, roc_curve
from ehrseq.metrics.intervals import Draws
from ehrseq.metrics.thresholds import alert_columns, split_sums
from ehrseq.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, new_charts, short, tell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# An outcome, and what is found of it: with its own `auroc`, `auprc` and `prevalence`, and its own tables.
Shown = tuple[Scored, Findings]

# Curves are drawn at so many places, not at every prediction.
_GRID = np.linspace(0, 1, 101)
_BAND_REPLICATES = 200
_BARS = 20
_FEWEST = 11  # true alerts that a ratio is drawn of
RULES = {
    "at_youden": ("Youden", "o", ORANGE),
    "at_sensitivity": ("fixed sensitivity", "s", GREEN),
    "at_budget": ("alert budget", "^", VERMILION),
}
_WAYS = {"none": "as trained", "platt": "Platt", "isotonic": "isotonic", "temperature": "temperature"}


def draw_roc(shown: Sequence[Shown], seed: int, level: float, path: Path) -> None:
    """The ROC curve with a band by subject, and the thresholds chosen on tuning."""
    words = [headline_of("AUROC", findings.metrics.get("auroc")) for _, findings in shown]
    with new_charts(path, _told("ROC curve", shown, words), len(shown), 4.8, 4.8) as places:
        for place, (scored, findings), said in zip(places, shown, words, strict=True):
            axes = place.subplots()
            _roc(axes, scored, findings.metrics, seed, level)
            axes.set(title=_title("ROC curve", scored, said), xlim=(0, 1), ylim=(0, 1.01))


def _roc(axes: "Axes", scored: Scored, estimates: Mapping[str, Estimate], seed: int, level: float) -> None:
    curve = roc_curve(scored.label, scored.risk, scored.weight)
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="_chance")
    axes.annotate("chance", (0.6, 0.57), color=GREY, fontsize=9, rotation=45, ha="center", va="top")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    if not len(curve.x):
        return
    low, high = _roc_band(scored, seed, level)
    axes.fill_between(_GRID, low, high, color=BLUE, alpha=0.18, lw=0, label=f"{level:.0%} interval")
    axes.plot(_GRID, np.interp(_GRID, curve.x, curve.y), color=BLUE, lw=2, label="model")
    for rule in scored.thresholds:
        point = [estimates.get(f"{rule}/{name}") for name in ("specificity", "sensitivity", "threshold")]
        specificity, sensitivity, threshold = (item.value if item else None for item in point)
        if specificity is not None and sensitivity is not None and rule in RULES:
            line = _mark(axes, rule, 1 - specificity, sensitivity)
            words = f"threshold {threshold or 0:.3g}: sensitivity {sensitivity:.3f}, specificity {specificity:.3f}"
            tell(line, [words])
    axes.legend(loc="lower right")


def draw_precision_recall(shown: Sequence[Shown], path: Path) -> None:
    """Precision against recall, with the prevalence that a coin would reach."""
    words = [headline_of("AUPRC", findings.metrics.get("auprc")) for _, findings in shown]
    with new_charts(path, _told("Precision and recall", shown, words), len(shown), 4.8, 4.8) as places:
        for place, (scored, findings), said in zip(places, shown, words, strict=True):
            axes = place.subplots()
            top = _precision_recall(axes, scored, findings.metrics)
            axes.set(title=_title("Precision and recall", scored, said), xlim=(0, 1), ylim=(0, top))


def _precision_recall(axes: "Axes", scored: Scored, estimates: Mapping[str, Estimate]) -> float:
    """Gives how high the axis goes."""
    curve = precision_recall_curve(scored.label, scored.risk, scored.weight)
    prevalence, top = estimates["prevalence"].value, 1.01
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    if prevalence is not None:
        axes.axhline(prevalence, color=GREY, lw=1, ls="--", label="_chance")
        axes.annotate(
            f"prevalence {prevalence:.1%}", (0.01, prevalence), color=GREY, fontsize=9, va="bottom", ha="left"
        )
    if not len(curve.x):
        return top
    # Precision at the first threshold that reaches each recall; where almost nobody alerts it says nothing.
    recall = _GRID[2:]
    place = np.minimum(np.searchsorted(curve.x, recall, side="left"), len(curve.x) - 1)
    axes.plot(recall, curve.y[place], color=BLUE, lw=2, label="model")
    # Of a rare outcome everything would lie at the floor.
    top = min(1.01, max(0.1, 1.3 * float(curve.y[place].max())))
    for rule in scored.thresholds:
        point = [estimates.get(f"{rule}/{name}") for name in ("sensitivity", "ppv", "threshold")]
        sensitivity, ppv, threshold = (item.value if item else None for item in point)
        if sensitivity is not None and ppv is not None and rule in RULES:
            line = _mark(axes, rule, sensitivity, ppv)
            tell(line, [f"threshold {threshold or 0:.3g}: recall {sensitivity:.3f}, precision {ppv:.3f}"])
    axes.legend(loc="upper right")
    return top


def draw_calibration(shown: Sequence[Shown], minimum: int, path: Path) -> None:
    """Observed against told risk in bins of equal mass with Wilson intervals, before and after mending.

    Args:
        shown: With the tables `calibration` and `reliability`.
        minimum: The fewest subjects that make a bar.
        path: PNG to write.
    """
    words = [_line_of(findings.tables["calibration"]) for _, findings in shown]
    with new_charts(path, _told("Calibration", shown, words), len(shown), 4.8, 5.8) as places:
        for place, (scored, findings), said in zip(places, shown, words, strict=True):
            axes, strip = place.subplots(2, 1, sharex=True, height_ratios=[4, 1])
            _reliability(axes, findings.tables)
            axes.set(title=_title("Calibration", scored, said))
            tallest = [1e-9]
            for kind, color, name in ((0, GREY, "without outcome"), (1, PURPLE, "with outcome")):
                own = scored.label == kind
                heights, edges = _density(scored.risk[own], len(np.unique(scored.subject[own])), minimum)
                tallest.append(float(heights.max()))
                strip.stairs(heights, edges, color=color, fill=True, alpha=0.55, label=name)
            # The legend stands above the bars.
            strip.set(xlabel="predicted risk", ylabel="density", ylim=(0, 1.6 * max(tallest)))
            strip.legend(loc="upper right", fontsize=8, ncols=2)


def _line_of(calibration: pl.DataFrame) -> str:
    """Slope and intercept of the risks as they are told."""
    used = calibration.row(by_predicate=pl.col("used"), named=True)
    figures = {name: used[f"calibration_{name}"] for name in ("slope", "intercept")}
    return ", ".join(f"{name} {'undefined' if value is None else f'{value:.2f}'}" for name, value in figures.items())


def _reliability(axes: "Axes", tables: Mapping[str, pl.DataFrame]) -> None:
    used = tables["calibration"].row(by_predicate=pl.col("used"), named=True)["recalibration"]
    after = used if used != "none" else "platt"
    curves = tables["reliability"]
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="_perfect")
    for way, color, marker in (("none", BLUE, "o"), (after, VERMILION, "s")):
        own = curves.filter(pl.col("recalibration") == way)
        if not own.height:
            continue
        risk, observed = own["risk"].to_numpy(), own["observed"].to_numpy()
        label = ("" if way == "none" else "after ") + _WAYS[way] + (", 95% interval" if way == used else " (not used)")
        bars = None
        if way == used:
            bars = np.abs(np.stack([observed - own["observed_low"], own["observed_high"] - observed]))
        axes.errorbar(risk, observed, bars, fmt="none", ecolor=color, capsize=3, lw=1.2)
        style = "-" if way == used else "--"
        (line,) = axes.plot(risk, observed, style, color=color, marker=marker, ms=5, lw=1.5, label=label)
        counts = own["predictions"].to_list()
        tell(line, [f"risk {x:.3f}, observed {y:.3f}, {n:,} predictions"
                    for x, y, n in zip(risk, observed, counts, strict=True)])  # fmt: skip
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    # Where risks are low everything lies in a corner: show the part that is used.
    own = curves.filter(pl.col("recalibration").is_in(["none", after]))
    top = max([*own["risk"], *own["observed_high"]], default=1.0)
    unit = 0.1 if top > 0.1 else 0.01  # of a rare outcome all risks are low
    edge = float(np.clip(np.ceil(top / unit) * unit, 0.01, 1))
    axes.set(ylabel="observed share with the outcome", xlim=(0, edge), ylim=(0, edge))


def _density(risk: Floats, people: int, minimum: int) -> tuple[Floats, Floats]:
    """How dense risks lie, (K,), between edges (K + 1,): in bars of equal mass, none of which is of a few persons."""
    bars = min(_BARS, people // max(minimum, 1))
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, bars + 1))) if bars else np.array([0.0, 1.0])
    if len(edges) < 2:
        return np.zeros(1), np.array([0.0, 1.0])
    return np.histogram(risk, edges)[0] / np.diff(edges) / max(len(risk), 1), edges


def draw_usefulness(shown: Sequence[Shown], level: float, path: Path) -> None:
    """Net benefit against treating everybody and nobody; of a single outcome also the alerts, and how many are in vain.

    Args:
        shown: With the table `decision_curve`.
        level: Coverage of the intervals.
        path: PNG to write.
    """
    alone = len(shown) == 1
    said = "Decision curve: net benefit by threshold" + ("; alerts and number needed to evaluate" if alone else "")
    with new_charts(path, said, len(shown), 9 if alone else 4.8, 4) as places:
        for place, (scored, findings) in zip(places, shown, strict=True):
            left, *right = place.subplots(1, 2 if alone else 1, squeeze=False)[0]
            _decision(left, scored, findings.tables["decision_curve"], level)
            left.set(title=short(scored.name) or "Decision curve")
            for axes in right:
                _costs(axes, scored, findings.tables["decision_curve"])


def _decision(axes: "Axes", scored: Scored, decision: pl.DataFrame, level: float) -> None:
    threshold = decision["threshold"].to_numpy()
    benefit = decision["net_benefit"].cast(pl.Float64).to_numpy()
    if decision["net_benefit_low"].count():
        low, high = (decision[f"net_benefit_{end}"].cast(pl.Float64).to_numpy() for end in ("low", "high"))
        axes.fill_between(threshold, low, high, color=BLUE, alpha=0.18, lw=0, label=f"{level:.0%} interval")
    axes.plot(threshold, benefit, color=BLUE, lw=2, label="act on the model")
    everybody = decision["treat_all"].cast(pl.Float64)
    axes.plot(threshold, everybody, color=ORANGE, lw=1.5, ls="--", label="act on everybody")
    axes.axhline(0, color=GREY, lw=1.5, ls=":", label="_nobody")
    axes.annotate(
        "act on nobody", (threshold[-1], 0), (-4, -3), textcoords="offset points", color=GREY, fontsize=9, va="top",
        ha="right",
    )  # fmt: skip
    top = float(np.nanmax([*decision["net_benefit"].drop_nulls(), 0.01]))
    lowest = -0.3 * top
    for rule, value in scored.thresholds.items():
        if rule in RULES and threshold[0] <= value <= threshold[-1]:
            own = float(np.interp(value, threshold, benefit))
            # Below what is shown, a mark out there would push all else together.
            if own >= lowest:
                tell(_mark(axes, rule, value, own), [f"threshold {value:.3g}: net benefit {own:.4f}"])
    axes.set(xlabel="threshold on the risk", ylabel="net benefit per prediction", xlim=(0, threshold[-1]),
             ylim=(lowest, 1.15 * top))  # fmt: skip
    axes.legend(loc="upper right")


def _costs(axes: "Axes", scored: Scored, decision: pl.DataFrame) -> None:
    threshold = decision["threshold"].to_numpy()
    columns = alert_columns(scored.label, scored.risk, threshold, scored.weight)
    true, false, positive, negative = split_sums(columns.sum(axis=0)[None])
    alerts = (true + false)[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        # A ratio of very few is no guide.
        needed = np.where(true[0] >= _FEWEST, alerts / true[0], np.nan)
        share = 100 * alerts / (positive + negative)[0]
    axes.plot(threshold, needed, color=VERMILION, lw=2, label="evaluated for one true alert")
    axes.set(title="What acting costs", xlabel="threshold on the risk", xlim=(0, threshold[-1]), ylim=(0, None))
    axes.set_ylabel("number needed to evaluate", color=VERMILION)
    other = axes.twinx()
    other.plot(threshold, share, color=BLUE, lw=1.5, ls="--", label="share that alerts")
    other.set_ylabel("alerts, % of predictions", color=BLUE)
    other.set_ylim(0, 100)
    other.grid(visible=False)
    other.spines["right"].set_visible(True)


def _mark(axes: "Axes", rule: str, x: float, y: float) -> "Line2D":
    """Where a rule's threshold is."""
    name, marker, color = RULES[rule]
    (line,) = axes.plot(x, y, marker, color=color, ms=7, mec="black", clip_on=False, label=name)
    return line


def _told(name: str, shown: Sequence[Shown], words: Sequence[str]) -> str:
    """What a page says of the picture to those who do not see it."""
    return f"{name}: " + "; ".join(
        f"{scored.name} {said}".strip() for (scored, _), said in zip(shown, words, strict=True)
    )


def _title(name: str, scored: Scored, words: str) -> str:
    """What it is, and below it its figures: in one line the longest would not fit."""
    return f"{short(scored.name) or name}\n{words}"


def headline_of(name: str, estimate: Estimate | None) -> str:
    """A title with a figure and its interval."""
    if estimate is None or estimate.value is None:
        return f"{name} undefined"
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{name} {estimate.value:.3f}"
    return f"{name} {estimate.value:.3f} ({estimate.ci_low:.3f} to {estimate.ci_high:.3f})"


def _roc_band(scored: Scored, seed: int, level: float) -> tuple[Floats, Floats]:
    """Pointwise interval of the sensitivity at each false-positive rate, over bootstrap samples of subjects."""
    curves = []
    order = np.argsort(-scored.risk, kind="stable")
    label = scored.label[order]
    counts = 1.0 if scored.weight is None else scored.weight[order]
    ends = np.append(np.flatnonzero(np.diff(scored.risk[order])), len(order) - 1)
    for weights in Draws(scored.subject, _BAND_REPLICATES, seed):
        for row in weights[:, order] * counts:
            true, false = np.cumsum(row * label)[ends], np.cumsum(row * (1 - label))[ends]
            if true[-1] and false[-1]:
                curves.append(np.interp(_GRID, np.append(0, false / false[-1]), np.append(0, true / true[-1])))
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
