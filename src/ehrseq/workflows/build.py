"""The only place that builds what a `_target_` names."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ehrseq.config.component import Component, is_allowed
from ehrseq.config.components import JoinedLabels
from ehrseq.config.fit import PLAIN_LOSS
from ehrseq.config.model import AnyModel, Blend, Teacher, Trees
from ehrseq.config.schema import Loss, Optim, Task
from ehrseq.config.targets import BinaryTarget, ForecastTarget, Part, Target
from ehrseq.errors import ConfigError
from ehrseq.sources.base import Source
from ehrseq.tasks import LabelMaker, SourceLabels

if TYPE_CHECKING:
    from ehrseq.baselines import GradientBoosting
    from ehrseq.nn import SequenceModel

T = TypeVar("T")


def build(component: Component, key: str, kind: type[T], **given: Any) -> T:
    """Build one component.

    Args:
        component: Its class and arguments.
        key: The config key, for messages.
        kind: What it must turn out to be.
        **given: Arguments that come from the data, such as input sizes; those the constructor does not take are left
            out.

    Raises:
        ConfigError: If the target is not an allowed class, does not take the arguments, or is not of the kind.
    """
    target = resolve(component.target, key)
    accepted = inspect.signature(target).parameters
    arguments = {**{name: value for name, value in given.items() if name in accepted}, **component.arguments()}
    try:
        built = target(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {component.target} cannot be built: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    if not isinstance(built, kind):
        raise ConfigError(f"{key}: {component.target} is not a {kind.__name__}")
    return built


def resolve(target: str, key: str) -> type[Any]:
    """The class that a `_target_` names, if it may be built.

    Raises:
        ConfigError: If it does not exist, or what it resolves to is not a class of an allowed package. The object is
            looked at, not only its name: `torch.nn.functional.os.system` is a name in torch and a function of os.
    """
    if not is_allowed(target):
        raise ConfigError(f"{key}: _target_ '{target}' is not in an allowed package")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}: _target_ '{target}' does not exist: {error}") from error
    if not inspect.isclass(found) or not is_allowed(f"{found.__module__}.{found.__qualname__}"):
        raise ConfigError(f"{key}: _target_ '{target}' is not a class of an allowed package")
    return found


def build_source(component: Component) -> Source:
    """The source of the raw data."""
    return build(component, "source", Source)  # type: ignore[type-abstract]


def build_label_maker(config: Task) -> LabelMaker:
    """Who makes the labels: what the task names, else the source."""
    if config.labels is None:
        # Of labels a forecast needs the times alone, whatever their name.
        return SourceLabels(of_any_task=config.target.kind == "forecast")
    return _label_maker(config.labels, "task.labels")


def build_auxiliary_makers(config: Task) -> dict[str, LabelMaker]:
    """Who makes the labels of each auxiliary target: what it names, else the source."""
    return {
        name: SourceLabels() if part.labels is None else _label_maker(part.labels, f"task.auxiliary.{name}.labels")
        for name, part in config.auxiliary.items()
    }


def _label_maker(component: Component, key: str) -> LabelMaker:
    """One maker of labels, with those that it joins."""
    given: dict[str, Any] = {}
    if isinstance(component, JoinedLabels):
        given["parts"] = {name: _label_maker(part, f"{key}.parts.{name}") for name, part in component.parts.items()}
    return build(component, key, LabelMaker, **given)  # type: ignore[type-abstract]


def build_model(
    config: AnyModel,
    target: Target,
    loss: Loss,
    num_features: int,
    num_statics: int,
    auxiliary: Mapping[str, Part] | None = None,
) -> "SequenceModel":
    """The network, its sizes taken from the data.

    Args:
        config: The blocks.
        target: What is predicted, with its classes or labels.
        loss: How errors count.
        num_features: F, features or codes of the representation.
        num_statics: S, static features.
        auxiliary: What is learned beside the target, by name, until `SequenceModel.finish`.

    Raises:
        ConfigError: If a block cannot be built, or the configuration is one of trees.
    """
    if isinstance(config, Trees):
        raise ConfigError(f"model={config.name}: trees where a network is needed")
    from ehrseq.nn import (
        Embedding,
        Encoder,
        Head,
        NextValues,
        Pooling,
        SequenceModel,
        SeveralObjective,
        SummaryNetwork,
        make_objective,
    )

    objective = make_objective(target, loss, num_features)
    beside = SeveralObjective(auxiliary, loss.model_copy(update=PLAIN_LOSS)) if auxiliary else None
    sizes = {
        "num_features": num_features,
        "num_codes": num_features,
        "num_statics": num_statics,
        "outputs": objective.outputs,
    }
    embedding = build(config.embedding, "model.embedding", Embedding, **sizes)  # type: ignore[type-abstract]
    encoder = build(
        config.encoder,
        "model.encoder",
        Encoder,  # type: ignore[type-abstract]
        input_size=embedding.output_size,
        **sizes,
    )
    pooling = build(
        config.pooling,
        "model.pooling",
        Pooling,  # type: ignore[type-abstract]
        input_size=encoder.output_size,
        bidirectional=encoder.bidirectional,
    )
    own = {**sizes, "outputs": objective.outputs + (beside.outputs if beside else 0)}
    head = build(config.head, "model.head", Head, input_size=pooling.output_size, **own)
    summary = next_values = None
    if isinstance(target, ForecastTarget):  # is all about the next values, and of single steps
        return SequenceModel(embedding, encoder, pooling, head, objective, hidden_dropout=config.hidden_dropout)
    if config.summary is not None:
        summary = build(config.summary, "model.summary", SummaryNetwork, **sizes)
    # What reads a history from its end has seen the next values.
    if config.next_values is not None and encoder.causal:
        next_values = build(
            config.next_values, "model.next_values", NextValues, input_size=encoder.output_size, **sizes
        )
    blocks = embedding, encoder, pooling, head, objective, summary, next_values
    return SequenceModel(*blocks, config.hidden_dropout, beside)


def build_booster(config: Trees | Teacher | Blend, target: Target) -> "GradientBoosting":
    """The trees, still to be fitted or loaded.

    Args:
        config: How they grow.
        target: What is predicted, with its classes.
    """
    from ehrseq.baselines import GradientBoosting

    key = {Trees: "model", Teacher: "teacher", Blend: "blend"}[type(config)]
    return build(config.booster, f"{key}.booster", GradientBoosting, target=target)


def build_boosters(config: Teacher) -> list["GradientBoosting"]:
    """The trees that teach yes or no, of one kind or two, still to be fitted."""
    from ehrseq.baselines import GradientBoosting

    binary = BinaryTarget(kind="binary")
    trees = [build_booster(config, binary)]
    if config.other is not None:
        trees.append(build(config.other, "teacher.other", GradientBoosting, target=binary))
    return trees


def build_optimizer(config: Optim) -> Callable[[Iterable[Any]], Any]:
    """A factory of the optimiser, which takes the parameters."""
    factory: Callable[..., Any] = resolve(config.optimizer.target, "optim.optimizer")
    return partial(factory, **config.optimizer.arguments())
