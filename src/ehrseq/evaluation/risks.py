"""Every yes-or-no question that predictions answer: thresholds, calibration and usefulness are of these."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Evaluate
from ehrseq.config.targets import (
    BinaryTarget,
    MulticlassTarget,
    MultilabelTarget,
    OrdinalTarget,
    SeveralTarget,
    SurvivalTarget,
    Target,
    columns_of,
)
from ehrseq.evaluation.binary import choose_thresholds
from ehrseq.evaluation.findings import Floats, Scored
from ehrseq.metrics.survival import known_weights


class Rows(NamedTuple):
    """Whose the N predictions of a split are, when they were made, and after how many hours; see `Scored`."""

    subject: NDArray[np.int64]
    time: NDArray[np.int64]
    history_hours: Floats


class Risk(NamedTuple):
    """One question.

    Attributes:
        prefix: Of the names of its figures, where it is of one of several targets.
        name: What is asked; empty where the target asks nothing else.
        label: (N,) 0 and 1, nan where unknown.
        risk: (N,) of the answer yes.
        weight: (N,) how much each counts; None: alike.
    """

    prefix: str
    name: str
    label: Floats
    risk: Floats
    weight: Floats | None = None


def risks_of(target: Target, outcome: NDArray[np.float32], prediction: Floats, prefix: str = "") -> list[Risk]:
    """The questions that a target's predictions answer; none of numbers and forecasts.

    Of classes: is it this one? Of buckets: is it at least this one? Of times to an event: has it happened by this time?
    There whoever was censored before does not count, and the others stand for them, see `known_weights`.

    Args:
        target: With the classes that were found.
        outcome: (N, L).
        prediction: (N, P).
        prefix: See `Risk`.
    """
    truth = outcome.astype(np.float64)
    match target:
        case BinaryTarget():
            return [Risk(prefix, "", truth[:, 0], prediction[:, 0])]
        case MulticlassTarget(classes=names):
            own = [np.where(np.isnan(truth[:, 0]), np.nan, truth[:, 0] == number) for number in range(len(names))]
            return [Risk(prefix, name, own[number], prediction[:, number]) for number, name in enumerate(names)]
        case MultilabelTarget(labels=names):
            return [Risk(prefix, name, truth[:, number], prediction[:, number]) for number, name in enumerate(names)]
        case OrdinalTarget(edges=edges):
            found = []
            for number, edge in enumerate(edges, start=1):
                label = np.where(np.isnan(truth[:, 0]), np.nan, truth[:, 0] >= number)
                # Sums of probabilities may be a hair above 1.
                risk = np.clip(prediction[:, number:].sum(axis=1), 0, 1)
                found.append(Risk(prefix, f"from {edge:g}", label, risk))
            return found
        case SurvivalTarget():
            return _by_time(target, truth, prediction, prefix)
        case SeveralTarget():
            return [
                risk
                for part in columns_of(target.parts)
                for risk in risks_of(
                    part.target, outcome[:, part.outcomes], prediction[:, part.predictions], f"{part.name}_"
                )
            ]
        case _:
            return []


def _by_time(target: SurvivalTarget, truth: Floats, prediction: Floats, prefix: str) -> list[Risk]:
    known = ~np.isnan(truth).any(axis=1)
    found = []
    for number, cause in enumerate(target.causes):
        for place, edge in enumerate(target.edges, start=number * len(target.edges)):
            label, weight = np.full(len(truth), np.nan), np.zeros(len(truth))
            label[known], weight[known] = known_weights(truth[known, 0], truth[known, 1], number + 1, edge)
            label[weight == 0] = np.nan
            name = f"by {edge:g} h" if len(target.causes) == 1 else f"{cause} by {edge:g} h"
            found.append(Risk(prefix, name, label, prediction[:, place], weight))
    return found


def score_risks(
    asked: list[Risk],
    raw: list[Risk],
    mended: Mapping[str, list[Risk]],
    chosen: list[Risk],
    rows: Rows,
    config: Evaluate,
) -> list[Scored]:
    """The questions with thresholds chosen for them, the known answers of each.

    Of a target with many, the most frequent `outcomes` are taken, in their order. Where fewer than `min_group` subjects
    have one of them, or have it not, nothing is told of it: all its figures are undefined.

    Args:
        asked: As told to people.
        raw: As the model gives them.
        mended: In each way; nan where that was not fitted.
        chosen: Those of `tuning`, as told to people.
        rows: Whose they are.
        config: How thresholds are chosen, how many questions are taken.
    """
    scored = []
    for number in _most_frequent(chosen, config.outcomes):
        own, tuning = asked[number], chosen[number]
        known = np.flatnonzero(~np.isnan(own.label))
        if own.name and _is_rare(own.label[known], rows.subject[known], config.min_group):
            known = known[:0]
        seen = ~np.isnan(tuning.label)
        weight = None if tuning.weight is None else tuning.weight[seen]
        ways = {method: risks[number].risk for method, risks in mended.items()}
        scored.append(
            Scored(
                label=own.label[known],
                risk=own.risk[known],
                raw=raw[number].risk[known],
                subject=rows.subject[known],
                time=rows.time[known],
                history_hours=rows.history_hours[known],
                thresholds=choose_thresholds(tuning.label[seen], tuning.risk[seen], config, weight),
                prefix=own.prefix,
                name=own.name,
                weight=None if own.weight is None else own.weight[known],
                mended={method: risk[known] for method, risk in ways.items() if not np.isnan(risk).any()},
                rows=known,
            )
        )
    return scored


def _most_frequent(risks: list[Risk], most: int) -> list[int]:
    """Which questions are taken of each target."""
    taken: list[int] = []
    for prefix in dict.fromkeys(risk.prefix for risk in risks):
        own = [number for number, risk in enumerate(risks) if risk.prefix == prefix]
        taken += sorted(own, key=lambda number: -float(np.nansum(risks[number].label)))[:most]
    return sorted(taken)


def _is_rare(label: Floats, subject: NDArray[np.generic], minimum: int) -> bool:
    return any(0 < len(np.unique(subject[label == kind])) < minimum for kind in (0, 1))
