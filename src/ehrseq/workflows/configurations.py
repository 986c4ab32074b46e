"""Runs of one configuration: the same in all but seed, fold and what does not touch the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ehrseq.config.identity import configuration_of
from ehrseq.config.targets import more_is_better
from ehrseq.errors import RunError
from ehrseq.files import digest_json
from ehrseq.workflows.scored import Finished

_SHOWN = 4
R = TypeVar("R", bound=Finished)


@dataclass(frozen=True)
class Configuration(Generic[R]):
    """What is compared.

    Attributes:
        name: For people: the model's name and what else tells it from the others.
        differs: The settings in which the compared configurations differ.
        runs: Its runs, of several seeds or folds.
    """

    name: str
    differs: dict[str, Any]
    runs: tuple[R, ...]

    @property
    def tuning(self) -> float:
        """The mean of what chose the best epochs, over its runs."""
        return sum(run.score for run in self.runs) / len(self.runs)


def group_by_configuration(runs: Sequence[R]) -> list[Configuration[R]]:
    """The configurations of some runs, in the order in which they come."""
    flat: dict[str, dict[str, Any]] = {}
    members: dict[str, list[R]] = {}
    for run in runs:
        plain = configuration_of(run.settings)
        key = digest_json(plain)
        flat[key] = plain
        members.setdefault(key, []).append(run)
    differing = _differing(list(flat.values()))
    names = _names([(members[key][0].settings.model.name, flat[key]) for key in members])
    return [
        Configuration(name, {word: flat[key].get(word) for word in differing}, tuple(members[key]))
        for name, key in zip(names, members, strict=True)
    ]


def _differing(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all, in order."""
    keys = list(dict.fromkeys(key for plain in flat for key in plain))
    return [key for key in keys if len({digest_json(plain.get(key, "absent")) for plain in flat}) > 1]


def _names(models: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A name each: the model's; where several have it, also the settings in which these differ."""
    names = []
    for model, plain in models:
        alike = [other for name, other in models if name == model]
        differing = _differing(alike)
        last = [key.rpartition(".")[2] for key in differing]
        words = [
            f"{short if last.count(short) == 1 else key}={plain.get(key)}"
            for key, short in zip(differing, last, strict=True)
        ]
        names.append(" ".join([model, *words[:_SHOWN]]) + (" ..." if len(words) > _SHOWN else ""))
    return [name if names.count(name) == 1 else f"{name} #{number + 1}" for number, name in enumerate(names)]


def choose_on_tuning(configurations: Sequence[Configuration[R]]) -> int:
    """The number of the configuration that is best on `tuning`, the first of equals.

    Raises:
        RunError: If they watched different figures, which cannot be ranked.
    """
    monitors = sorted({run.monitor for item in configurations for run in item.runs})
    if len(monitors) > 1:
        raise RunError(
            f"the runs watched different figures on tuning, {' and '.join(monitors)}: none can be chosen by them; name "
            "the reference yourself, or train all with one trainer.monitor"
        )
    sign = 1 if more_is_better(monitors[0]) else -1
    scores = [sign * item.tuning for item in configurations]
    return scores.index(max(scores))
