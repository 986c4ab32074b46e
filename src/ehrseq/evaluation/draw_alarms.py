"""The picture of alarms: events caught in time against how often it sounds, and how many alarms are true."""

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from ehrseq.evaluation.draw_binary import RULES
from ehrseq.plotting import BLUE, GREEN, ORANGE, PURPLE, VERMILION, new_chart, tell

if TYPE_CHECKING:
    from matplotlib.lines import Line2D


def draw_alarms(alarms: pl.DataFrame, rule: str, path: Path) -> None:
    """Event recall at each lead time, and precision, against alarms a subject and day.

    Args:
        alarms: From `evaluate_alarms`.
        rule: Whose threshold is marked.
        path: PNG to write.
    """
    ordered = alarms.filter(pl.col("alarms_per_day").is_not_null()).sort("alarms_per_day")
    recalls = [
        name for name in ordered.columns if name.startswith("event_recall") and not name.endswith(("low", "high"))
    ]
    x = ordered["alarms_per_day"]
    chosen = ordered.filter(pl.col("rule") == rule)
    with new_chart(path, "Alarms: events caught in time and precision against alarms a day", 9, 4) as figure:
        left, right = figure.subplots(1, 2, sharex=True)
        colors = (BLUE, GREEN, PURPLE, ORANGE)
        for name, color in zip(recalls, colors, strict=False):
            lead = name.removeprefix("event_recall").strip("_")
            label = f"at least {lead.removesuffix('h')} h before" if lead else "in time"
            (line,) = left.plot(x, ordered[name], "o-", color=color, ms=4, label=label)
            _tell(line, ordered, name)
        for name, color, label in (
            ("alarm_precision", BLUE, "of all alarms"),
            ("first_alarm_precision", ORANGE, "of first alarms"),
        ):
            (line,) = right.plot(x, ordered[name], "o-", color=color, ms=4, label=label)
            _tell(line, ordered, name)
        for axes, title, label in (
            (left, "Events caught", "share of events"),
            (right, "Alarms that are true", "share of alarms"),
        ):
            if chosen.height:
                axes.axvline(chosen["alarms_per_day"][0], color=VERMILION, lw=1, ls="--", label="_chosen")
            axes.set(title=title, ylabel=label, xlabel="sounding alarms per patient-day", ylim=(0, None))
            axes.set_xlim(0, None)
            axes.legend(loc="best")
        left.set_ylim(0, 1.02)
        if chosen.height:
            left.annotate(
                _rule_in_words(rule), (chosen["alarms_per_day"][0], 1.0), color=VERMILION, fontsize=8, ha="left",
                xytext=(3, 0), textcoords="offset points", va="top",
            )  # fmt: skip


def _rule_in_words(rule: str) -> str:
    return RULES[rule][0] if rule in RULES else "best utility"


def _tell(line: "Line2D", table: pl.DataFrame, name: str) -> None:
    tell(
        line,
        [
            f"{item['rule']} (threshold {item['threshold'] or 0:.3g}): {item[name] or 0:.3f} at "
            f"{item['alarms_per_day']:.2f} alarms a patient-day"
            for item in table.iter_rows(named=True)
        ],
    )
