"""Objectives against plain Python, scipy's and scikit-learn's figures, and their own promises."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Loss
from ehrseq.config.targets import SeveralTarget, Target, columns_of, prediction_names, read_target
from ehrseq.errors import ConfigError
from ehrseq.nn import make_objective

PLAIN = load_settings().loss
TARGETS: list[dict[str, Any]] = [
    {"kind": "binary"},
    {"kind": "multiclass", "classes": ["a", "b", "c"]},
    {"kind": "multilabel", "labels": ["x", "y"]},
    {"kind": "regression"},
    {"kind": "regression", "log": True},
    {"kind": "ordinal", "edges": [1, 3, 7]},
    {"kind": "survival", "edges": [24, 48, 72]},
    {"kind": "survival", "edges": [24, 48], "causes": ["death", "discharge"]},
]
SEVERAL: dict[str, Any] = {
    "kind": "several",
    "first": "death",
    "parts": {
        "stay": {"target": {"kind": "regression"}, "weight": 0.5},
        "death": {"target": {"kind": "binary"}, "weight": 2.0},
        "grade": {"target": {"kind": "multiclass", "classes": ["a", "b", "c"]}},
        "time": {"target": {"kind": "survival", "edges": [24, 48]}, "weight": 0.7},
    },
}
TARGETS.append(SEVERAL)
each_target = pytest.mark.parametrize("plain", TARGETS, ids=lambda plain: "-".join(map(str, plain.values())))


def loss_of(**changes: Any) -> Loss:
    return PLAIN.model_copy(update=changes)


def outcomes_of(target: Target, rows: int = 200) -> Tensor:
    if isinstance(target, SeveralTarget):
        return torch.cat([outcomes_of(part.target, rows) for part in columns_of(target.parts)], dim=1)
    torch.manual_seed(3)
    match target.kind:
        case "binary":
            return (torch.rand(rows, 1) < 0.3).float()
        case "multiclass" | "ordinal":
            return torch.randint(0, len(prediction_names(target)), (rows, 1)).float()
        case "multilabel":
            return (torch.rand(rows, 2) < 0.4).float()
        case "regression":
            return torch.rand(rows, 1) * 50 + 3
    causes = len(getattr(target, "causes", ()))
    return torch.stack([torch.rand(rows) * 90 + 0.1, torch.randint(0, causes + 1, (rows,)).float()], 1)


@each_target
def test_predictions_are_what_their_names_promise(plain: dict[str, Any]) -> None:
    target = read_target(plain)
    objective = make_objective(target, PLAIN)
    objective.fit(outcomes_of(target).numpy())
    output = torch.randn(7, objective.outputs, dtype=torch.float64) * 3
    prediction = objective.predict(output)
    assert prediction.shape == (7, len(prediction_names(target)))
    assert objective.risk(output).shape == (7,)
    if target.kind not in ("regression", "several"):
        assert ((prediction >= 0) & (prediction <= 1)).all()
    if target.kind in ("multiclass", "ordinal"):
        torch.testing.assert_close(prediction.sum(1), torch.ones(7, dtype=torch.float64))


@each_target
def test_unknown_outcomes_take_no_part(plain: dict[str, Any]) -> None:
    target = read_target(plain)
    objective = make_objective(target, PLAIN)
    outcome = outcomes_of(target, 12)
    objective.fit(outcome.numpy())
    output = torch.randn(12, objective.outputs, requires_grad=True)
    hidden = outcome.clone()
    hidden[8:] = torch.nan
    loss = objective.loss(output, hidden)
    torch.testing.assert_close(loss, objective.loss(output[:8], outcome[:8]))
    (gradient,) = torch.autograd.grad(loss, output)
    assert gradient[8:].count_nonzero() == 0
    assert gradient.isfinite().all()
    nothing = objective.loss(output, torch.full_like(outcome, torch.nan))
    assert nothing.item() == 0


@each_target
def test_outputs_can_be_fitted_to_outcomes(plain: dict[str, Any]) -> None:
    """Descending the loss alone brings the predictions to the truth: sign, order and scale are right."""
    target = read_target(plain)
    objective = make_objective(target, PLAIN)
    outcome = outcomes_of(target, 40)
    objective.fit(outcome.numpy())
    output = nn.Parameter(torch.zeros(40, objective.outputs))
    optimizer = torch.optim.Adam([output, *objective.parameters()], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        torch.autograd.backward(objective.loss(output, outcome))
        optimizer.step()
    check_truth(objective.predict(output.detach()).detach(), outcome, target)


def check_truth(prediction: Tensor, outcome: Tensor, target: Target) -> None:
    if isinstance(target, SeveralTarget):
        for part in columns_of(target.parts):
            check_truth(prediction[:, part.predictions], outcome[:, part.outcomes], part.target)
    match target.kind:
        case "binary" | "multilabel":
            assert ((prediction > 0.5) == (outcome == 1)).all()
        case "multiclass" | "ordinal":
            assert (prediction.argmax(1) == outcome[:, 0]).all()
        case "regression":
            torch.testing.assert_close(prediction, outcome, rtol=0.01, atol=0.05)
        case "survival":
            check_incidence(prediction, outcome, target)


def check_incidence(prediction: Tensor, outcome: Tensor, target: Any) -> None:
    edges = len(target.edges)
    for row, (hours, cause) in zip(prediction, outcome.tolist(), strict=True):
        for number in range(len(target.causes)):
            mine = row[number * edges : (number + 1) * edges].tolist()
            for edge, value in zip(target.edges, mine, strict=True):
                if cause == number + 1 and hours <= edge:
                    assert value > 0.9
                elif hours > edge or 0 < cause != number + 1:
                    assert value < 0.1


def test_binary_loss_is_that_of_scikit_learn_and_of_the_papers() -> None:
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(0)
    logit, label = rng.normal(size=50), (rng.random(50) < 0.3).astype(float)
    output, outcome = torch.from_numpy(logit)[:, None], torch.from_numpy(label)[:, None]
    probability = 1 / (1 + np.exp(-logit))

    def value(**changes: Any) -> float:
        objective = make_objective(read_target({"kind": "binary"}), loss_of(**changes)).double()
        objective.fit(label[:, None].astype(np.float32))
        return objective.loss(output, outcome).item()

    assert value() == pytest.approx(log_loss(label, probability))
    given = np.where(label == 1, probability, 1 - probability)
    assert value(focal=2.0) == pytest.approx(np.mean(-((1 - given) ** 2) * np.log(given)))
    odds = label.sum() / (1 - label).sum()
    adjusted = 1 / (1 + np.exp(-(logit + 0.7 * np.log(odds))))
    assert value(logit_adjustment=0.7) == pytest.approx(log_loss(label, adjusted), rel=1e-6)
    weight = np.where(label == 1, 1 / odds, 1)
    assert value(class_weight="balanced") == pytest.approx(np.mean(-weight * np.log(given)), rel=1e-6)
    assert value(class_weight=3.0) == pytest.approx(np.mean(-np.where(label == 1, 3, 1) * np.log(given)))
    soft = np.where(label == 1, 0.95, 0.05)
    expected = np.mean(-soft * np.log(probability) - (1 - soft) * np.log(1 - probability))
    assert value(label_smoothing=0.1) == pytest.approx(expected)


def test_ordinal_probabilities_follow_proportional_odds_and_start_at_the_frequencies() -> None:
    objective = make_objective(read_target({"kind": "ordinal", "edges": [1, 2, 3]}), PLAIN).double()
    outcome = np.repeat([0, 1, 2, 3], [10, 40, 30, 20]).astype(np.float32)[:, None]
    objective.fit(outcome)
    start = objective.predict(torch.zeros(1, 1, dtype=torch.float64))[0].tolist()
    assert start == pytest.approx([0.1, 0.4, 0.3, 0.2], abs=0.01)
    thresholds = objective.thresholds.tolist()  # type: ignore[operator]
    assert all(low < high for low, high in pairwise(thresholds))
    above = [1.0, *(1 / (1 + math.exp(-(0.4 - threshold))) for threshold in thresholds), 0.0]
    expected = [high - low for high, low in pairwise(above)]
    got = objective.predict(torch.tensor([[0.4]], dtype=torch.float64))[0].tolist()
    assert got == pytest.approx(expected)


def test_survival_loss_and_incidence_against_a_plain_loop() -> None:
    edges, causes = (10.0, 20.0, 30.0), 2
    objective = make_objective(read_target({"kind": "survival", "edges": edges, "causes": ["a", "b"]}), PLAIN).double()
    torch.manual_seed(0)
    rows = [(5, 1), (10, 2), (10.5, 1), (30, 2), (31, 1), (25, 0), (20, 0), (3, 0), (99, 0)]
    output = torch.randn(len(rows), 6, dtype=torch.float64)
    outcome = torch.tensor(rows, dtype=torch.float64)
    total = 0.0
    for logits, (hours, cause), predicted in zip(
        output.reshape(-1, 3, causes).tolist(), rows, objective.predict(output).tolist(), strict=True
    ):
        alive, incidence, loss = 1.0, [[0.0] * 3, [0.0] * 3], 0.0
        done = False
        for k, edge in enumerate(edges):
            scale = 1 + sum(math.exp(x) for x in logits[k])
            hazard = [math.exp(x) / scale for x in logits[k]]
            for c in range(causes):
                incidence[c][k] = (incidence[c][k - 1] if k else 0.0) + alive * hazard[c]
            alive *= 1 / scale
            if done:
                continue
            if cause and hours <= edge:
                loss -= math.log(hazard[cause - 1])
                done = True
            elif hours < edge:  # censored within: nothing is known of this interval
                done = True
            else:
                loss -= math.log(1 / scale)
        total += loss
        assert predicted == pytest.approx(incidence[0] + incidence[1])
    assert objective.loss(output, outcome).item() == pytest.approx(total / len(rows))


def test_what_is_learned_of_train_is_saved_with_the_weights() -> None:
    target = read_target({"kind": "regression", "log": True})
    objective = make_objective(target, PLAIN)
    objective.fit(outcomes_of(target).numpy())
    other = make_objective(target, PLAIN)
    other.load_state_dict(objective.state_dict())
    output = torch.randn(5, 1)
    assert torch.equal(other.predict(output), objective.predict(output))


def test_several_losses_against_a_plain_loop() -> None:
    """Each part's mean over its known outcomes, weighted; what one part does not know, others may."""
    target = read_target(SEVERAL)
    # Those after the first by name, however they are written.
    assert prediction_names(target)[:3] == ("death_probability", "grade_probability_a", "grade_probability_b")
    objective = make_objective(target, loss_of(focal=2.0)).double()
    rng = np.random.default_rng(0)
    rows = 30
    outcome = outcomes_of(target, rows).double()
    unknown = [rng.random(rows) < share for share in (0.2, 0.5, 0.3, 0.4)]
    for part, hidden in zip(columns_of(target.parts), unknown, strict=True):  # type: ignore[union-attr]
        outcome[torch.from_numpy(hidden), part.outcomes] = torch.nan
    objective.fit(outcome.numpy().astype(np.float32))
    output = torch.randn(rows, 1 + 3 + 1 + 2, dtype=torch.float64, requires_grad=True)
    loss = objective.loss(output, outcome)
    stays = [row[2] for row in outcome.tolist() if not math.isnan(row[2])]
    mean = sum(stays) / len(stays)
    spread = (sum((stay - mean) ** 2 for stay in stays) / len(stays)) ** 0.5
    own: dict[str, list[float]] = {"death": [], "grade": [], "stay": [], "time": []}
    for values, (death, grade, stay, hours, event) in zip(output.tolist(), outcome.tolist(), strict=True):
        if not math.isnan(death):
            given = 1 / (1 + math.exp(-values[0] if death else values[0]))
            own["death"].append(-((1 - given) ** 2) * math.log(given))
        if not math.isnan(grade):
            given = math.exp(values[1 + int(grade)]) / sum(math.exp(value) for value in values[1:4])
            own["grade"].append(-((1 - given) ** 2) * math.log(given))
        if not math.isnan(stay):
            own["stay"].append((values[4] - (stay - mean) / spread) ** 2)
        if not math.isnan(hours):
            total = 0.0
            for logit, edge in zip(values[5:7], (24.0, 48.0), strict=True):
                hazard = 1 / (1 + math.exp(-logit))
                if event and hours <= edge:
                    total -= math.log(hazard)
                    break
                if hours < edge:
                    break
                total -= math.log(1 - hazard)
            own["time"].append(total)
    weights = {"death": 2.0, "grade": 1.0, "stay": 0.5, "time": 0.7}
    expected = sum(weight * sum(own[name]) / len(own[name]) for name, weight in weights.items())
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, output)
    for hidden, columns in zip(unknown, (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 7)), strict=True):
        assert gradient[torch.from_numpy(hidden), columns].count_nonzero() == 0
        if columns.start < 5:  # of who is censored before the first edge nothing is known either
            assert (gradient[torch.from_numpy(~hidden), columns] != 0).any(dim=1).all()
    torch.testing.assert_close(objective.risk(output), torch.sigmoid(output[:, 0]))


def test_what_is_taken_from_train_is_taken_from_the_known() -> None:
    target = read_target(SEVERAL)
    outcome = outcomes_of(target, 60).numpy()
    hidden = outcome.copy()
    hidden[40:] = np.nan
    found, expected = (make_objective(target, loss_of(class_weight="balanced")) for _ in range(2))
    found.fit(hidden)
    expected.fit(outcome[:40])
    for one, other in zip(found.buffers(), expected.buffers(), strict=True):
        assert torch.equal(one, other)
    ordinal = [make_objective(read_target({"kind": "ordinal", "edges": [1, 2]}), PLAIN) for _ in range(2)]
    ordinal[0].fit(hidden[:, 1:2])
    ordinal[1].fit(outcome[:40, 1:2])
    torch.testing.assert_close(ordinal[0].state_dict(), ordinal[1].state_dict())


def test_options_of_the_loss_are_for_the_parts_that_know_them() -> None:
    target = read_target(SEVERAL)
    outcome = outcomes_of(target, 20)
    outcome[:, 0] = torch.nan  # the only part that knows a number as weight of a class
    output = torch.randn(20, 7)
    values = [make_objective(target, loss_of(class_weight=weight)).loss(output, outcome) for weight in ("none", 5.0)]
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize(
    ("plain", "loss", "message"),
    [
        ({"kind": "regression"}, {"focal": 1.0}, "loss.focal is for binary, multiclass and multilabel targets"),
        ({"kind": "multiclass", "classes": ["a", "b"]}, {"class_weight": 2.0}, "loss.class_weight is a number"),
    ],
)
def test_losses_that_do_not_fit_are_refused(plain: dict[str, Any], loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_objective(read_target(plain), loss_of(**loss))


@each_target
def test_learning_begins_where_one_output_for_all_is_best(plain: dict[str, Any]) -> None:
    torch.manual_seed(3)
    loss = PLAIN.model_copy(update={"class_weight": "balanced"}) if plain["kind"] in ("binary", "multiclass") else PLAIN
    target = read_target(plain)
    objective = make_objective(target, loss)
    outcome = outcomes_of(target, 500)
    objective.fit(outcome.numpy())
    output = objective.initial(outcome.numpy()).requires_grad_()
    best = objective.loss(output.expand(500, -1), outcome)
    (slope,) = torch.autograd.grad(best, output)
    assert slope.abs().max() < 0.01  # half a case is added where a count could be 0
