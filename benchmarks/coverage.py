"""How often intervals hold the truth: simulated studies of 400 subjects with two predictions each.

    python benchmarks/coverage.py            # some minutes

A subject's predictions go together, and risks are 1.4 times too extreme on the scale of log odds. The truth is that of
two million subjects. Nominal coverage is 95%.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.metrics import evaluate_binary
from ehrseq.metrics.calibration import calibration_fit, evaluate_calibration
from ehrseq.metrics.intervals import Estimate
from ehrseq.metrics.logistic import logit, sigmoid
from ehrseq.metrics.thresholds import evaluate_thresholds, operating_point

Floats = NDArray[np.float64]
SUBJECTS, REPLICATES, THRESHOLD, EXTREME = 400, 500, 0.3, 1.4
RANKED = ("auroc", "auprc", "brier", "log_loss", "prevalence")
POINTS = ("sensitivity", "specificity", "ppv", "npv", "f1", "mcc")
RESULT = Path(__file__).parent / "results" / "coverage.json"


def draw(random: np.random.Generator, subjects: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    subject = np.repeat(np.arange(subjects), 2)
    odds = np.repeat(random.normal(-1, 1.2, subjects), 2) + random.normal(0, 0.4, 2 * subjects)
    label = (random.random(2 * subjects) < sigmoid(odds)).astype(np.float64)
    return label, sigmoid(EXTREME * odds), subject


def figures(
    label: Floats, risk: Floats, subject: NDArray[np.int64], replicates: int, seed: int, stratified: bool
) -> dict[str, Estimate]:
    options: dict[str, Any] = {"replicates": replicates, "seed": seed, "level": 0.95}
    strata = label if stratified else None
    found = evaluate_binary(label, risk, subject, replicates=replicates, seed=seed, stratified=stratified)
    found |= evaluate_calibration(label, risk, subject, **options, strata=strata)
    found |= evaluate_thresholds(label, risk, subject, {"at": THRESHOLD}, **options, strata=strata)
    return {name.removeprefix("at/"): value for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    random = np.random.default_rng(0)
    label, risk, subject = draw(random, 2_000_000)
    fit = calibration_fit(label, risk)
    truth = {name: value.value for name, value in evaluate_binary(label, risk, subject, replicates=0).items()}
    truth |= operating_point(label, risk, THRESHOLD) | {
        "calibration_slope": fit.slope,
        "calibration_intercept": fit.intercept,
        "observed_expected": float(label.sum() / risk.sum()),
    }
    names = [*RANKED, *POINTS, "calibration_slope", "calibration_intercept", "observed_expected"]
    assert abs(fit.slope * EXTREME - 1) < 0.01
    assert np.isfinite(logit(risk)).all()
    result: dict[str, dict[str, float]] = {"by subject": {}, "stratified": {}}
    held = {kind: dict.fromkeys(names, 0) for kind in result}
    for study in range(studies):
        own = draw(random, SUBJECTS)
        for kind, counts in held.items():
            found = figures(*own, REPLICATES, study, kind == "stratified")
            for name in names:
                low, high, value = found[name].ci_low, found[name].ci_high, truth[name]
                counts[name] += low is not None and high is not None and value is not None and low <= value <= high
    for kind, counts in held.items():
        # Stratified samples hold the share of positives fixed: what depends on it has no interval worth the name.
        fixed = {"prevalence", "brier", "log_loss", "calibration_intercept", "observed_expected", "auprc"}
        fixed |= {"ppv", "npv", "f1"}
        shown = [name for name in names if kind == "by subject" or name not in fixed]
        result[kind] = {name: round(counts[name] / studies, 4) for name in shown}
        print(kind, result[kind])
    facts = {"studies": studies, "subjects": SUBJECTS, "replicates": REPLICATES, "coverage": result}
    RESULT.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
