"""All pictures of an evaluation, in one place."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from ehrseq.config.schema import Evaluate
from ehrseq.evaluation import draw_binary
from ehrseq.evaluation.binary import SENSITIVITY
from ehrseq.evaluation.draw_alarms import draw_alarms
from ehrseq.evaluation.draw_binary import Shown
from ehrseq.evaluation.draw_cohort import draw_cohort
from ehrseq.evaluation.draw_groups import draw_groups, draw_over_time, has_groups
from ehrseq.metrics import Estimate


def draw_risks(shown: list[Shown], rule: str, config: Evaluate, folder: Path) -> None:
    """The pictures of one target's risks.

    Args:
        shown: Each outcome, with what is found of it; groups and alarms are drawn of a single one.
        rule: Whose threshold is marked among alarms.
        config: How sure figures are made, and how small the smallest group is.
        folder: Where they go.
    """
    scored, findings = shown[0]
    prefix, tables = scored.prefix, findings.tables
    draw_binary.draw_roc(shown, config.seed, config.level, folder / f"{prefix}roc.png")
    draw_binary.draw_precision_recall(shown, folder / f"{prefix}precision_recall.png")
    draw_binary.draw_calibration(shown, config.min_group, folder / f"{prefix}calibration.png")
    draw_binary.draw_usefulness(shown, config.level, folder / f"{prefix}usefulness.png")
    if scored.name:
        return
    if "alarms" in tables:
        draw_alarms(tables["alarms"], rule, folder / f"{prefix}alarms.png")
    if "groups" in tables:
        draw_by_group(tables["groups"], findings.metrics, folder, prefix)


def draw_by_group(groups: pl.DataFrame, estimates: Mapping[str, Estimate], folder: Path, prefix: str = "") -> None:
    """For whom it works, and when.

    Args:
        groups: The table.
        estimates: Everybody's figures.
        folder: Where the pictures go.
        prefix: Of their names.
    """
    values = {name: estimate.value for name, estimate in estimates.items()}
    values["sensitivity"] = values.get(f"{SENSITIVITY}/sensitivity")
    if has_groups(groups):
        draw_groups(groups, values, folder / f"{prefix}groups.png")
    draw_over_time(groups, values, folder / f"{prefix}over_time.png")


__all__ = ["draw_by_group", "draw_cohort", "draw_risks"]
