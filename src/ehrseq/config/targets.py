"""What kinds of outcome can be predicted, as the configuration has them under `task.target`."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from ehrseq.config.section import Section

Name = Annotated[str, Field(min_length=1)]
Edges = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


def _check_ascending(edges: tuple[float, ...]) -> None:
    if list(edges) != sorted(set(edges)):
        raise ValueError(f"edges {list(edges)} must rise")


class BinaryTarget(Section):
    """Yes or no (`boolean_value`).

    `utility`: what alarms are worth, beside how well they are ranked; sepsis2019: as in the PhysioNet Challenge 2019,
    whose stays have a prediction an hour.
    """

    kind: Literal["binary"]
    utility: Literal["none", "sepsis2019"] = "none"

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Written down only where it is asked for: as in the YAML files, from which another kind may be chosen.
        plain: dict[str, Any] = handler(self)
        if plain["utility"] == "none":
            del plain["utility"]
        return plain


class MulticlassTarget(Section):
    """One of several classes (`categorical_value`, or `integer_value`); empty: those found in the labels."""

    kind: Literal["multiclass"]
    classes: tuple[Name, ...] = ()


class MultilabelTarget(Section):
    """Several answers of yes or no, a boolean column each beside the keys; empty: all of them."""

    kind: Literal["multilabel"]
    labels: tuple[Name, ...] = ()


class RegressionTarget(Section):
    """A number (`float_value`, or `integer_value`); `log`: learned as log(1 + value)."""

    kind: Literal["regression"]
    log: bool = False


class OrdinalTarget(Section):
    """Which bucket a number falls in: below the first edge, from it up to the next, ..., from the last up."""

    kind: Literal["ordinal"]
    edges: Edges

    @model_validator(mode="after")
    def _check(self) -> "OrdinalTarget":
        _check_ascending(self.edges)
        return self


class SurvivalTarget(Section):
    """When something happens, and which of several (`time_to_event_hours`, `event`: 0 censored, 1 the first cause ...).

    Time is cut at the edges, in hours; what happens past the last edge counts as not seen to happen.
    """

    kind: Literal["survival"]
    edges: Edges
    causes: Annotated[tuple[Name, ...], Field(min_length=1)] = ("event",)

    @model_validator(mode="after")
    def _check(self) -> "SurvivalTarget":
        _check_ascending(self.edges)
        return self


class ForecastTarget(Section):
    """The values that are measured next, told at every step; labels say when histories end, and no more.

    `horizon`: how many bins ahead; `normal_only`: learned from histories whose `boolean_value` is not true, so that
    what is surprising is what is not normal.
    """

    kind: Literal["forecast"]
    horizon: PositiveInt = 1
    normal_only: bool = False


SingleTarget = BinaryTarget | MulticlassTarget | MultilabelTarget | RegressionTarget | OrdinalTarget | SurvivalTarget


class Part(Section):
    """One of several targets that are learned together.

    `column`: of the labels, where it is not the one of the target's kind; survival and multilabel targets, which have
    several, have them under their own names behind this one and `_`. `weight`: of its loss in the sum.
    """

    target: Annotated[SingleTarget, Field(discriminator="kind")]
    column: Name | None = None
    weight: PositiveFloat = 1.0


class SeveralTarget(Section):
    """Several targets at once, each of a kind of its own; an outcome that is not known (null) is missing in its part.

    `first`: the part that splits are stratified by and that a risk is of; by default the one that is written first. The
    others follow by name.
    """

    kind: Literal["several"]
    parts: Annotated[dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Part], Field(min_length=2)]
    first: str

    @model_validator(mode="before")
    @classmethod
    def _order(cls, given: Any) -> Any:
        # JSON files and digests keep no order of keys, and the columns of outcomes must not depend on it.
        parts = given.get("parts") if isinstance(given, dict) else None
        if not isinstance(parts, dict) or not parts:
            return given
        first = given.get("first") or next(iter(parts))
        names = sorted(parts, key=lambda name: (name != first, str(name)))
        return {**given, "first": first, "parts": {name: parts[name] for name in names}}

    @model_validator(mode="after")
    def _check(self) -> "SeveralTarget":
        if self.first not in self.parts:
            raise ValueError(f"first={self.first} is none of the parts {', '.join(self.parts)}")
        for name, part in self.parts.items():
            if isinstance(part.target, BinaryTarget) and part.target.utility != "none":
                raise ValueError(f"parts.{name}.target.utility is for a binary target alone")
        return self


Target = Annotated[SingleTarget | SeveralTarget | ForecastTarget, Field(discriminator="kind")]


class PartColumns(NamedTuple):
    """Where a part is among the columns of all.

    Attributes:
        name: The part's.
        target: Its target.
        outcomes: Its columns of (M, L) outcomes.
        predictions: Its columns of (M, P) predictions.
    """

    name: str
    target: SingleTarget
    outcomes: slice
    predictions: slice


def columns_of(together: Mapping[str, Part]) -> tuple[PartColumns, ...]:
    """The columns of each part; the targets must have their classes and labels."""
    parts: list[PartColumns] = []
    outcome = prediction = 0
    for name, part in together.items():
        own = slice(outcome, outcome := outcome + outcome_size(part.target))
        predicted = slice(prediction, prediction := prediction + len(prediction_names(part.target)))
        parts.append(PartColumns(name, part.target, own, predicted))
    return tuple(parts)


def outcome_size(target: SingleTarget) -> int:
    """How many numbers the outcome of a history has."""
    match target:
        case MultilabelTarget(labels=labels):
            return len(labels)
        case SurvivalTarget():
            return 2
        case _:
            return 1


def prediction_names(target: Target) -> tuple[str, ...]:
    """What the P predictions of a history are called."""
    match target:
        case BinaryTarget():
            return ("probability",)
        case MulticlassTarget(classes=names) | MultilabelTarget(labels=names):
            return tuple(f"probability_{name}" for name in names)
        case OrdinalTarget(edges=edges):
            return tuple(f"probability_{number}" for number in range(len(edges) + 1))
        case RegressionTarget():
            return ("prediction",)
        case SurvivalTarget(edges=edges, causes=causes):
            return tuple(f"incidence_{cause}_{edge:g}h" for cause in causes for edge in edges)
        case ForecastTarget():
            return ("anomaly",)
        case SeveralTarget(parts=parts):
            return tuple(f"{name}_{own}" for name, part in parts.items() for own in prediction_names(part.target))


# What training can watch on `tuning` beside the loss, and whether more is better.
WATCHED: dict[str, dict[str, bool]] = {
    "binary": {"auroc": True, "auprc": True},
    "multiclass": {"auroc": True, "accuracy": True},
    "multilabel": {"auroc": True, "auprc": True},
    "regression": {"mae": False, "r2": True},
    "ordinal": {"kappa": True},
    "survival": {},
    "forecast": {"mae": False},
}


def watched(target: Target) -> tuple[str, ...]:
    """The figures of a target that training can watch beside the loss; of several targets, each behind its part."""
    if isinstance(target, SeveralTarget):
        return tuple(f"{name}_{own}" for name, part in target.parts.items() for own in watched(part.target))
    return tuple(WATCHED[target.kind])


def more_is_better(monitor: str) -> bool:
    """Whether a watched figure, `tuning/...`, is better the higher it is."""
    name = monitor.removeprefix("tuning/")
    # Behind the name of a part, where there are several.
    return any(
        up and (name == own or name.endswith(f"_{own}")) for metrics in WATCHED.values() for own, up in metrics.items()
    )


def read_target(plain: Any) -> Target:
    """The target that `Section.plain` wrote."""
    target: Target = TypeAdapter(Target).validate_python(plain)
    return target


def read_parts(plain: Any) -> dict[str, Part]:
    """Targets by name, in order, each as `Section.plain` wrote it."""
    return {name: Part.model_validate(part) for name, part in sorted(plain.items())}
