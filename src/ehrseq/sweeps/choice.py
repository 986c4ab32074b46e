"""Which configuration is chosen: by figures of `tuning` alone, the mean over its repetitions."""

from collections.abc import Sequence
from statistics import fmean

from ehrseq.sweeps.records import Outcome


def choose(outcomes: Sequence[Outcome], objectives: Sequence[tuple[str, str]], repeats: int) -> list[int]:
    """The numbers of the best trials.

    Args:
        outcomes: Of all runs.
        objectives: Figures, each `minimize` or `maximize`.
        repeats: How many repetitions a trial has; one that lacks some is not chosen.

    Returns:
        One number; of several objectives those that no other trial is at least as good as in all of them and better in
        one (the Pareto front), in order; none where no trial has finished.
    """
    by_trial: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.status == "finished":
            by_trial.setdefault(outcome.trial, []).append(outcome)
    costs = {
        number: tuple(
            fmean(run.values[name] for run in runs) * (-1 if direction == "maximize" else 1)
            for name, direction in objectives
        )
        for number, runs in sorted(by_trial.items())
        if len(runs) == repeats
    }
    if len(objectives) == 1:
        return [min(costs, key=lambda number: (costs[number], number))] if costs else []
    return [
        number
        for number, cost in costs.items()
        if not any(other != cost and all(a <= b for a, b in zip(other, cost, strict=True)) for other in costs.values())
    ]
