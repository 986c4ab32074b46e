"""What a run's alarms are worth: the utility of a task that asks for it, at a threshold chosen on `tuning`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.metrics import Estimate, best_threshold, evaluate_utility
from ehrseq.store import Store
from ehrseq.workflows.scorers import Scorer

UTILITY, THRESHOLD = "utility", "utility_threshold"


def evaluate_alarms(
    settings: Settings,
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
        store: The data.
        scorer: Of the run.
        samples: (M,) sample numbers, in the order of the store, with whole stays.
        probability: (M,) their predictions.
        **options: See `ehrseq.metrics.evaluate_utility`.
    """
    tuning = store.samples("tuning")
    chosen = best_threshold(
        store.subjects_of(tuning), _label(store, tuning), scorer.score(store, tuning, settings)[:, 0]
    )
    if np.isnan(chosen.threshold):
        return {name: Estimate(None, None, None) for name in (UTILITY, THRESHOLD)}
    alarm = probability >= chosen.threshold
    utility = evaluate_utility(store.subjects_of(samples), _label(store, samples), alarm, **options)
    threshold = chosen.threshold if np.isfinite(chosen.threshold) else None
    return {UTILITY: utility, THRESHOLD: Estimate(threshold, None, None)}


def _label(store: Store, samples: NDArray[np.int64]) -> NDArray[np.float32]:
    label: NDArray[np.float32] = store.arrays.sample_label[samples, 0]
    return label
