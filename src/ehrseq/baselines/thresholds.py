"""Where numbers matter: the thresholds at which trees split them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.baselines.gbm import REPEATABLE, Matrix, import_lightgbm

_TREES = 300
# Coarse and many-leaved: the thresholds are wanted, not the predictions.
_PARAMETERS: dict[str, Any] = {
    "objective": "regression",
    "num_leaves": 15,
    "learning_rate": 0.1,
    "feature_fraction": 0.3,
    "min_child_samples": 50,
    **REPEATABLE,
}


def find_thresholds(
    matrix: Matrix, outcome: Matrix, number: int, seed: int, threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The thresholds that say most about an outcome, by all that trees gained at them (squared error).

    Args:
        matrix: Numbers (M, K).
        outcome: What trees learn, (M,).
        number: How many thresholds are wanted, at most.
        seed: Of the share of numbers that each tree may use.
        threads: None: what OpenMP takes; they change nothing.

    Returns:
        Columns (L,) and thresholds (L,), by column and threshold, L at most `number`.

    Raises:
        ConfigError: If LightGBM is not installed.
    """
    lightgbm = import_lightgbm()
    if not len(outcome):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    parameters = {**_PARAMETERS, "seed": seed, "num_threads": threads or 0}
    booster = lightgbm.train(parameters, lightgbm.Dataset(matrix, outcome, params=parameters), _TREES)
    gains: dict[tuple[int, float], float] = {}
    for tree in booster.dump_model()["tree_info"]:
        for split in _splits(tree["tree_structure"]):
            place = int(split["split_feature"]), float(np.float32(split["threshold"]))
            gains[place] = gains.get(place, 0.0) + split["split_gain"]
    best = sorted(sorted(gains, key=lambda place: (-gains[place], place))[:number])
    return np.array([column for column, _ in best], np.int64), np.array([at for _, at in best], np.float32)


def _splits(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All splits of a tree."""
    if "split_feature" in node:
        yield node
        yield from _splits(node["left_child"])
        yield from _splits(node["right_child"])
