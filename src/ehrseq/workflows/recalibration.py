"""How a run's risks can be mended: fitted on `tuning` with the model, kept beside its weights, applied when asked."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.config.schema import Settings
from ehrseq.config.targets import (
    BinaryTarget,
    MulticlassTarget,
    MultilabelTarget,
    SeveralTarget,
    Target,
    columns_of,
    prediction_names,
    read_target,
)
from ehrseq.metrics.recalibration import METHODS, Calibrator, fit_calibrator, fit_temperature
from ehrseq.store import Store
from ehrseq.workflows.scorers import ForecastScorer, Scorer

CALIBRATION = "calibration.json"
Calibrators = dict[str, dict[str, Calibrator]]
_CLASSES = "classes"  # all of a multiclass target together
Floats = NDArray[np.float64]


def fit_calibrators(settings: Settings, store: Store, scorer: Scorer) -> dict[str, Any]:
    """Fit every method on `tuning`, so that one can be chosen later without training again; plain JSON.

    Risks of yes or no have all methods, those of classes temperature; other predictions have none.
    """
    target = read_target(store.meta["target"])
    if isinstance(scorer, ForecastScorer) or not list(_risks(target)):
        return {}
    samples = store.samples("tuning")
    outcome, prediction = store.arrays.sample_label[samples], scorer.score(store, samples, settings)
    fitted: dict[str, Any] = {}
    for name, outcomes, predictions in _risks(target):
        truth, risk = outcome[:, outcomes].astype(np.float64), prediction[:, predictions]
        known = ~np.isnan(truth[:, 0])
        if predictions.stop - predictions.start > 1:
            fitted[name] = {"temperature": fit_temperature(truth[known, 0], risk[known]).to_json()}
        else:
            own = {method: fit_calibrator(method, truth[known, 0], risk[known, 0]) for method in METHODS}
            fitted[name] = {method: calibrator.to_json() for method, calibrator in own.items()}
    return fitted


def read_calibrators(plain: dict[str, Any]) -> Calibrators:
    """What `fit_calibrators` gave."""
    return {
        name: {method: Calibrator.from_json(item) for method, item in methods.items()}
        for name, methods in plain.items()
    }


def apply_calibrators(target: Target, calibrators: Calibrators, method: str, prediction: Floats) -> Floats:
    """Mended predictions (M, P); those that cannot be mended in this way stay."""
    mended = prediction.copy()
    for name, _, columns in _risks(target):
        calibrator = calibrators.get(name, {}).get(method)
        if calibrator is not None:
            mended[:, columns] = _mend(calibrator, prediction[:, columns])
    return mended


def mend_all(target: Target, calibrators: Calibrators, prediction: Floats) -> dict[str, Floats]:
    """Predictions (M, P) mended in each way; nan where it was not fitted."""
    fitted = {method for methods in calibrators.values() for method in methods}
    found: dict[str, Floats] = {}
    for method in (method for method in METHODS if method in fitted):
        found[method] = np.full_like(prediction, np.nan)
        for name, _, columns in _risks(target):
            if method in calibrators.get(name, {}):
                found[method][:, columns] = _mend(calibrators[name][method], prediction[:, columns])
    return found


def _mend(calibrator: Calibrator, prediction: Floats) -> Floats:
    """Risks (M, K) of one answer, or of K classes."""
    return calibrator.apply_classes(prediction) if prediction.shape[1] > 1 else calibrator.apply(prediction)


def _risks(target: Target, prefix: str = "", outcome: int = 0, first: int = 0) -> Iterator[tuple[str, slice, slice]]:
    """The risks among predictions: name, columns of outcomes, columns of predictions."""
    match target:
        case BinaryTarget():
            yield f"{prefix}probability", slice(outcome, outcome + 1), slice(first, first + 1)
        case MultilabelTarget():
            for number, name in enumerate(prediction_names(target)):
                place = slice(first + number, first + number + 1)
                yield f"{prefix}{name}", slice(outcome + number, outcome + number + 1), place
        case MulticlassTarget(classes=classes):
            yield f"{prefix}{_CLASSES}", slice(outcome, outcome + 1), slice(first, first + len(classes))
        case SeveralTarget():
            for part in columns_of(target.parts):
                yield from _risks(part.target, f"{part.name}_", part.outcomes.start, part.predictions.start)
        case _:
            return
