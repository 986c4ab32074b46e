"""Predictions of several runs on the same examples, side by side; and what is said where they are not the same."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from blake3 import blake3
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.errors import RunError
from ehrseq.workflows.configurations import Configuration
from ehrseq.workflows.scored import HASHED, Scored
from ehrseq.workflows.track import pseudonymise


@dataclass(frozen=True)
class Unit:
    """One set of held-out examples, and the runs that predicted it.

    Attributes:
        runs: All, each with the same examples in the same order.
        group: (K,) the number of each run's configuration.
        examples: How many examples there are.
        left_out: How many were left out, since not all runs have them.
    """

    runs: tuple[Scored, ...]
    group: NDArray[np.int64]
    examples: int
    left_out: int

    @property
    def subjects(self) -> int:
        """How many subjects the examples are of."""
        return len(np.unique(self.runs[0].subject()))


def match(configurations: Sequence[Configuration[Scored]], settings: Settings) -> list[Unit]:
    """The sets of held-out examples that all configurations have predicted.

    One set: a comparison on the same examples. Several: folds, or repeated splits.

    Args:
        configurations: What is compared.
        settings: `compare.examples`: `same` refuses what differs, `common` takes what all have.

    Raises:
        RunError: If the configurations have predicted different examples, or the same ones with other labels.
    """
    runs = [(number, run) for number, item in enumerate(configurations) for run in item.runs]
    runs = list(zip([number for number, _ in runs], _same_keys([run for _, run in runs], settings), strict=True))
    _check_same_task([run for _, run in runs])
    sets: dict[str, list[tuple[int, Scored]]] = {}
    for number, run in runs:
        sets.setdefault(_digest(run), []).append((number, run))
    everybody = set(range(len(configurations)))
    complete = [members for members in sets.values() if {number for number, _ in members} == everybody]
    if len(complete) == len(sets):
        return [_unit(members, 0) for members in complete]
    if settings.compare.examples == "same":
        raise RunError(_describe(configurations, sets, bool(complete)))
    if complete:
        return [_unit(members, 0) for members in complete]
    return [_common(runs)]


def _same_keys(runs: Sequence[Scored], settings: Settings) -> list[Scored]:
    """All runs under hashed keys, where some have no others."""
    if not any(HASHED in run.frame.columns for run in runs):
        return list(runs)
    hashed = []
    for run in runs:
        frame = run.frame
        if HASHED not in frame.columns:
            frame = pseudonymise(frame, Path(settings.paths.data)).sort(HASHED)
        hashed.append(replace(run, frame=frame))
    return hashed


def _check_same_task(runs: Sequence[Scored]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for what, one, other in (
            ("task", first.settings.task.name, run.settings.task.name),
            ("split", first.split, run.split),
            ("target", first.target, run.target),
        ):
            if one != other:
                raise RunError(
                    f"{first.name} and {run.name} cannot be compared: their {what} is not the same ({one}; {other})"
                )


def _digest(run: Scored) -> str:
    """Of the examples that a run predicted."""
    return str(blake3(run.frame.select(run.keys).write_csv().encode()).hexdigest())


def _unit(members: Sequence[tuple[int, Scored]], left_out: int) -> Unit:
    runs = tuple(run for _, run in members)
    first = runs[0].outcome()
    for run in runs[1:]:
        differ = int((~np.isclose(run.outcome(), first, rtol=0, atol=0, equal_nan=True)).any(axis=1).sum())
        if differ:
            raise RunError(
                f"{runs[0].name} and {run.name} have different labels for {differ:,} of {len(first):,} examples: they "
                "do not predict the same outcome"
            )
    return Unit(runs, np.array([number for number, _ in members]), len(first), left_out)


def _common(runs: Sequence[tuple[int, Scored]]) -> Unit:
    """What all runs have predicted.

    Raises:
        RunError: If that is nothing.
    """
    keys = list(runs[0][1].keys)
    common = runs[0][1].frame.select(keys)
    union = common
    for _, run in runs[1:]:
        common = common.join(run.frame.select(keys), on=keys, how="semi")
        union = pl.concat([union, run.frame.select(keys)]).unique()
    if not common.height:
        raise RunError(
            f"{runs[0][1].name} and the others have no example in common: they were made from other data, or of folds "
            "that do not meet"
        )
    cut = [(number, replace(run, frame=run.frame.join(common, on=keys, how="semi").sort(keys))) for number, run in runs]
    return _unit(cut, union.height - common.height)


def _describe(
    configurations: Sequence[Configuration[Scored]], sets: dict[str, list[tuple[int, Scored]]], some_complete: bool
) -> str:
    """Who has predicted what, where it is not the same."""
    parts = []
    for members in sets.values():
        names = list(dict.fromkeys(configurations[number].name for number, _ in members))
        parts.append(f"{members[0][1].frame.height:,} examples: {', '.join(names)}")
    kept = "the folds" if some_complete else "the examples"
    listed = "; ".join(parts[:6]) + ("; ..." if len(parts) > 6 else "")
    return (
        f"the configurations were not scored on the same held-out examples ({listed}); compare.examples=common keeps "
        f"{kept} that all of them have"
    )
