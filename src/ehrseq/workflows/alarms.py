"""What a run's alarms are worth: the utility of a task that asks for it, at a threshold chosen on `tuning`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.metrics import Estimate, best_threshold
from ehrseq.metrics import evaluate_utility as utility_of
from ehrseq.store import Store
from ehrseq.workflows.runs import TrainedRun
from ehrseq.workflows.scorers import Scorer

UTILITY, THRESHOLD = "utility", "utility_threshold"


def evaluate_utility(
    settings: Settings,
    trained: TrainedRun,
    store: Store,
    scorer: Scorer,
    samples: NDArray[np.int64],
    probability: NDArray[np.float64],
    **options: Any,
) -> dict[str, Estimate]:
    """The utility of an alarm wherever the probability reaches the threshold that is best on `tuning`.

    Both are undefined where `tuning` has no positive; the threshold is so, too, where no alarm at all is best there.

    Args:
        settings: How to score `tuning`.
        trained: The run.
        store: The data.
        scorer: Of the run.
        samples: (M,) sample numbers, in the order of the store, with whole stays.
        probability: (M,) their predictions.
        **options: See `ehrseq.metrics.evaluate_utility`.
    """
    tuning = store.samples("tuning")
    told = trained.recalibrate(scorer.score(store, tuning, settings), settings.recalibration)
    chosen = best_threshold(store.subjects_of(tuning), _label(store, tuning), told[:, 0])
    if np.isnan(chosen.threshold):
        return {name: Estimate(None, None, None) for name in (UTILITY, THRESHOLD)}
    alarm = probability >= chosen.threshold
    utility = utility_of(store.subjects_of(samples), _label(store, samples), alarm, **options)
    threshold = chosen.threshold if np.isfinite(chosen.threshold) else None
    return {UTILITY: utility, THRESHOLD: Estimate(threshold, None, None)}


def _label(store: Store, samples: NDArray[np.int64]) -> NDArray[np.float32]:
    label: NDArray[np.float32] = store.arrays.sample_label[samples, 0]
    return label
