"""What `evaluate` writes of each kind of target can be read back, and each of its AUROC is DeLong's."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from ehrseq.config.targets import columns_of, prediction_names, read_target
from ehrseq.metrics import evaluate_predictions
from ehrseq.metrics.delong import delong
from ehrseq.metrics.directions import better
from ehrseq.workflows.compare import _yes_or_no
from ehrseq.workflows.evaluate import _outcome_columns
from ehrseq.workflows.scored import outcomes_of

PART: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary"},
    "multiclass": {"kind": "multiclass", "classes": ["low", "middle", "high"]},
    "multilabel": {"kind": "multilabel", "labels": ["one", "other"]},
    "regression": {"kind": "regression"},
    "ordinal": {"kind": "ordinal", "edges": [0.5, 1.5]},
    "survival": {"kind": "survival", "edges": [12, 48], "causes": ["death", "discharge"]},
}
KINDS = PART | {"several": {"kind": "several", "parts": {name: {"target": part} for name, part in PART.items()}}}


def outcomes(kind: str, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Outcomes (N, L) as the store has them, some unknown where that may be."""
    columns = {
        "binary": [rng.integers(0, 2, count)],
        "multiclass": [rng.integers(0, 3, count)],
        "multilabel": [np.where(rng.random(count) < 0.2, np.nan, rng.integers(0, 2, count)) for _ in range(2)],
        "regression": [rng.normal(size=count)],
        "ordinal": [rng.integers(0, 3, count)],
        "survival": [rng.random(count) * 60, rng.integers(0, 3, count)],
    }
    if kind == "several":
        parts = [outcomes(name, count, rng) for name in ("binary", *sorted(set(columns) - {"binary"}))]
        for number, part in enumerate(parts):
            part[number :: len(parts)] = np.nan
        return np.concatenate(parts, axis=1)
    return np.column_stack(columns[kind]).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_come_back_and_areas_agree(kind: str) -> None:
    rng = np.random.default_rng(3)
    plain = KINDS[kind]
    target = read_target(plain | {"first": "binary"} if kind == "several" else plain)
    outcome = outcomes(kind, 120, rng)
    frame = pl.DataFrame(_outcome_columns(target, outcome))
    np.testing.assert_array_equal(outcomes_of(target, frame), outcome)
    raw = rng.random((120, len(prediction_names(target))))
    subject = np.arange(120)
    found = evaluate_predictions(target, outcome, raw, subject, replicates=20)
    areas = _yes_or_no(target, outcome, raw[None])
    assert bool(areas) is (kind in {"binary", "multiclass", "multilabel", "several"})
    for name, label, score in areas:
        known = ~np.isnan(label)
        assert found[name].value == pytest.approx(delong(label[known], score[:, known]).auroc[0], abs=1e-12)
    drawn = [estimate.replicates for estimate in found.values()]
    assert all(row is not None and row.shape == (20,) for row in drawn)
    headlines = [name for name in found if name.endswith(("auroc", "r2", "kappa"))]
    assert all(better(name) == "higher" for name in headlines)
    assert all(better(name) == "lower" for name in found if name.endswith(("brier", "log_loss", "mae", "rmse", "ece")))
    if kind == "several":
        assert {part.name for part in columns_of(target.parts)} == set(PART)  # type: ignore[union-attr]
