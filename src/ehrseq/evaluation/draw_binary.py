"""Pictures of risks: ROC, precision and recall, calibration, usefulness. No point stands for a single person."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.evaluation.findings import Floats, Scored
from ehrseq.metrics import Estimate, precision_recall_curve, roc_curve
from ehrseq.metrics.intervals import Draws
from ehrseq.plotting import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, new_chart, tell

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


def draw_roc(scored: Scored, estimates: Mapping[str, Estimate], seed: int, level: float, path: Path) -> None:
    """The ROC curve with a band by subject, and the thresholds chosen on tuning."""
    curve = roc_curve(scored.label, scored.risk)
    words = headline_of("ROC curve: AUROC", estimates.get("auroc"))
    with new_chart(path, words, 4.8, 4.8) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="_chance")
        axes.annotate("chance", (0.6, 0.57), color=GREY, fontsize=9, rotation=45, ha="center", va="top")
        if len(curve.x):
            low, high = _roc_band(scored, seed, level)
            axes.fill_between(_GRID, low, high, color=BLUE, alpha=0.18, lw=0, label=f"{level:.0%} interval")
            axes.plot(_GRID, np.interp(_GRID, curve.x, curve.y), color=BLUE, lw=2, label="model")
            for rule in scored.thresholds:
                point = [estimates.get(f"{rule}/{name}") for name in ("specificity", "sensitivity", "threshold")]
                specificity, sensitivity, threshold = (item.value if item else None for item in point)
                if specificity is not None and sensitivity is not None and rule in RULES:
                    name, marker, color = RULES[rule]
                    (line,) = axes.plot(
                        1 - specificity, sensitivity, marker, color=color, ms=7, mec="black", clip_on=False, label=name
                    )
                    tell(line, [f"threshold {threshold or 0:.3g}: sensitivity {sensitivity:.3f}, "
                                f"specificity {specificity:.3f}"])  # fmt: skip
            axes.legend(loc="lower right")
        axes.set(title=_two_lines(words), xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01))


def draw_precision_recall(scored: Scored, estimates: Mapping[str, Estimate], path: Path) -> None:
    """Precision against recall, with the prevalence that a coin would reach."""
    curve = precision_recall_curve(scored.label, scored.risk)
    words = headline_of("Precision and recall: AUPRC", estimates.get("auprc"))
    prevalence, top = estimates["prevalence"].value, 1.01
    with new_chart(path, words, 4.8, 4.8) as figure:
        axes = figure.subplots()
        if prevalence is not None:
            axes.axhline(prevalence, color=GREY, lw=1, ls="--", label="_chance")
            axes.annotate(
                f"prevalence {prevalence:.1%}", (0.01, prevalence), color=GREY, fontsize=9, va="bottom", ha="left"
            )
        if len(curve.x):
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
                    name, marker, color = RULES[rule]
                    (line,) = axes.plot(
                        sensitivity, ppv, marker, color=color, ms=7, mec="black", clip_on=False, label=name
                    )
                    tell(line, [f"threshold {threshold or 0:.3g}: recall {sensitivity:.3f}, precision {ppv:.3f}"])
            axes.legend(loc="upper right")
        axes.set(
            title=_two_lines(words), xlabel="recall (sensitivity)", ylabel="precision (PPV)", xlim=(0, 1), ylim=(0, top)
        )


def draw_calibration(
    scored: Scored, curves: pl.DataFrame, used: str, estimates: Mapping[str, Estimate], minimum: int, path: Path
) -> None:
    """Observed against told risk in bins of equal mass with Wilson intervals, before and after mending.

    Args:
        scored: Predictions.
        curves: The table `reliability`.
        used: How the risks are mended.
        estimates: For the title.
        minimum: The fewest predictions that make a bar.
        path: PNG to write.
    """
    slope, large = (estimates[f"calibration_{name}"].value for name in ("slope", "intercept"))
    words = "Calibration: slope " + ", intercept ".join(
        "undefined" if v is None else f"{v:.2f}" for v in (slope, large)
    )
    after = used if used != "none" else "platt"
    with new_chart(path, words, 4.8, 5.8) as figure:
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="_perfect")
        for way, color, marker in (("none", BLUE, "o"), (after, VERMILION, "s")):
            own = curves.filter(pl.col("recalibration") == way)
            if not own.height:
                continue
            risk, observed = own["risk"].to_numpy(), own["observed"].to_numpy()
            label = (
                ("" if way == "none" else "after ") + _WAYS[way] + (", 95% interval" if way == used else " (not used)")
            )
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
        shown = curves.filter(pl.col("recalibration").is_in(["none", after]))
        top = max([*shown["risk"], *shown["observed_high"]], default=1.0)
        unit = 0.1 if top > 0.1 else 0.01  # of a rare outcome all risks are low
        edge = float(np.clip(np.ceil(top / unit) * unit, 0.01, 1))
        axes.set(title=_two_lines(words), ylabel="observed share with the outcome", xlim=(0, edge), ylim=(0, edge))
        for kind, color, name in ((0, GREY, "without outcome"), (1, PURPLE, "with outcome")):
            heights, edges = _density(scored.risk[scored.label == kind], minimum)
            strip.stairs(heights, edges, color=color, fill=True, alpha=0.55, label=name)
        strip.set(xlabel="predicted risk", ylabel="density", ylim=(0, None))
        strip.legend(loc="upper right", fontsize=8, ncols=2)


def _density(risk: Floats, minimum: int) -> tuple[Floats, Floats]:
    """How dense risks lie, (K,), between edges (K + 1,): in bars of equal mass, none of which is of a few persons."""
    bars = min(_BARS, len(risk) // max(minimum, 1))
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, bars + 1))) if bars else np.array([0.0, 1.0])
    if len(edges) < 2:
        return np.zeros(1), np.array([0.0, 1.0])
    return np.histogram(risk, edges)[0] / np.diff(edges) / max(len(risk), 1), edges


def draw_usefulness(decision: pl.DataFrame, scored: Scored, level: float, path: Path) -> None:
    """Net benefit against treating everybody and nobody; and how many alerts, and how many for a true one."""
    threshold = decision["threshold"].to_numpy()
    alerts = np.array([(scored.risk >= value).mean() if len(scored.risk) else np.nan for value in threshold])
    true = np.array([scored.label[scored.risk >= value].sum() for value in threshold])
    with np.errstate(invalid="ignore", divide="ignore"):
        # A ratio of very few is no guide.
        needed = np.where(true >= _FEWEST, alerts * len(scored.risk) / true, np.nan)
    with new_chart(
        path, "Decision curve: net benefit by threshold; alerts and number needed to evaluate", 9, 4
    ) as figure:
        left, right = figure.subplots(1, 2)
        if decision["net_benefit_low"].count():
            low, high = (decision[f"net_benefit_{end}"].to_numpy() for end in ("low", "high"))
            left.fill_between(threshold, low, high, color=BLUE, alpha=0.18, lw=0, label=f"{level:.0%} interval")
        left.plot(threshold, decision["net_benefit"], color=BLUE, lw=2, label="act on the model")
        left.plot(threshold, decision["treat_all"], color=ORANGE, lw=1.5, ls="--", label="act on everybody")
        left.axhline(0, color=GREY, lw=1.5, ls=":", label="_nobody")
        left.annotate(
            "act on nobody", (threshold[-1], 0), (-4, -3), textcoords="offset points", color=GREY, fontsize=9, va="top",
            ha="right",
        )  # fmt: skip
        top = float(np.nanmax([*decision["net_benefit"].drop_nulls(), 0.01]))
        lowest = -0.3 * top
        for rule, value in scored.thresholds.items():
            if rule in RULES and threshold[0] <= value <= threshold[-1]:
                name, marker, color = RULES[rule]
                benefit = np.interp(value, threshold, decision["net_benefit"].cast(pl.Float64).to_numpy())
                if benefit < lowest:  # below what is shown; a mark out there would push all else together
                    continue
                (line,) = left.plot(value, benefit, marker, color=color, ms=7, mec="black", clip_on=False, label=name)
                tell(line, [f"threshold {value:.3g}: net benefit {benefit:.4f}"])
        left.set(title="Decision curve", xlabel="threshold on the risk", ylabel="net benefit per prediction",
                 xlim=(0, threshold[-1]), ylim=(lowest, 1.15 * top))  # fmt: skip
        left.legend(loc="upper right")
        right.plot(threshold, needed, color=VERMILION, lw=2, label="evaluated for one true alert")
        right.set(title="What acting costs", xlabel="threshold on the risk", xlim=(0, threshold[-1]), ylim=(0, None))
        right.set_ylabel("number needed to evaluate", color=VERMILION)
        share = right.twinx()
        share.plot(threshold, 100 * alerts, color=BLUE, lw=1.5, ls="--", label="share that alerts")
        share.set_ylabel("alerts, % of predictions", color=BLUE)
        share.set_ylim(0, 100)
        share.grid(visible=False)
        share.spines["right"].set_visible(True)


def _two_lines(words: str) -> str:
    """A title whose figures stand below its words: in one line the longest would not fit."""
    return words.replace(": ", "\n", 1)


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
    ends = np.append(np.flatnonzero(np.diff(scored.risk[order])), len(order) - 1)
    for weights in Draws(scored.subject, _BAND_REPLICATES, seed):
        for row in weights[:, order]:
            true, false = np.cumsum(row * label)[ends], np.cumsum(row * (1 - label))[ends]
            if true[-1] and false[-1]:
                curves.append(np.interp(_GRID, np.append(0, false / false[-1]), np.append(0, true / true[-1])))
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
