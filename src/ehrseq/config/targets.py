"""What kinds of outcome can be predicted, as the configuration has them under `task.target`."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, SerializerFunctionWrapHandler, TypeAdapter, model_serializer, model_validator

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


Target = Annotated[
    BinaryTarget
    | MulticlassTarget
    | MultilabelTarget
    | RegressionTarget
    | OrdinalTarget
    | SurvivalTarget
    | ForecastTarget,
    Field(discriminator="kind"),
]


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


def more_is_better(monitor: str) -> bool:
    """Whether a watched figure, `tuning/...`, is better the higher it is."""
    name = monitor.removeprefix("tuning/")
    return any(metrics.get(name, False) for metrics in WATCHED.values())


def read_target(plain: Any) -> Target:
    """The target that `Section.plain` wrote."""
    target: Target = TypeAdapter(Target).validate_python(plain)
    return target
