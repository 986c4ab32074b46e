"""What a sweep varies: choices and ranges, some of them only where others take certain values.

Values are kept as the text that stands behind `=` in an override word, so that what is tried is exactly what could be
typed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from ehrseq.config.section import Section
from ehrseq.errors import ConfigError

Assignment = dict[str, str]  # key: value, as in an override word
When = Mapping[str, tuple[str, ...]]
# Runs of one configuration that differ in these alone are repetitions of it.
REPEATED = ("seed", "split.fold")

_PLAIN = re.compile(r"[A-Za-z0-9_.+\-/]+")
_MOST_VALUES = 10_000


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        key: What is varied: a config group or key.
        values: The values.
        when: The values that other keys must have for this one to matter.
    """

    key: str
    values: tuple[str, ...]
    when: When = field(default_factory=dict)

    @property
    def ends(self) -> tuple[str, ...]:
        """Values that prove the whole dimension fit, if they do."""
        return self.values


@dataclass(frozen=True)
class Interval:
    """A number between two others, both included.

    Attributes:
        key: What is varied.
        low: The smallest value.
        high: The largest value.
        step: Distance between two values; None: any value between (of whole numbers: every one).
        log: Whether equal ratios, not equal differences, are equally likely.
        whole: Whether the values are whole numbers.
        when: The values that other keys must have for this one to matter.
    """

    key: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False
    when: When = field(default_factory=dict)

    @property
    def ends(self) -> tuple[str, ...]:
        """The smallest and the largest value."""
        return self.text(self.low), self.text(self.high)

    def text(self, value: float) -> str:
        """A value as in an override word."""
        return str(round(value)) if self.whole else repr(float(value))

    def listed(self) -> tuple[str, ...]:
        """All values.

        Raises:
            ConfigError: If there is no end of them.
        """
        step = 1 if self.step is None and self.whole else self.step
        if step is None or self.log:
            raise ConfigError(f"'{self.key}' is a range, which needs a sweeper that samples: sweep=optuna or random")
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > _MOST_VALUES:
            raise ConfigError(f"'{self.key}' has {count:,} values; a grid takes {_MOST_VALUES:,} at most")
        # Rounded, so that 0.1 + 2 * 0.1 is written as 0.3.
        return tuple(self.text(round(self.low + number * step, 12)) for number in range(count))


Dimension = Choice | Interval


class _Choices(Section):
    choices: tuple[Any, ...] = Field(min_length=1)
    when: dict[str, Any] = Field(default_factory=dict)


class _Range(Section):
    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False
    when: dict[str, Any] = Field(default_factory=dict)


def text_of(value: Any) -> str:
    """A plain value as it stands behind `=` in an override word."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def read_space(search: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions that a file describes (`sweep.search`).

    Raises:
        ConfigError: If one is not understood.
    """
    return [_read_dimension(key, node) for key, node in search.items()]


def _read_dimension(key: str, node: Any) -> Dimension:
    where = f"sweep.search.{key}"
    if isinstance(node, list):
        node = {"choices": node}
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={node}: give a list of values, {{low, high}} or {{choices}}")
    try:
        if "choices" in node:
            choices = _Choices.model_validate(node)
            return Choice(key, tuple(map(text_of, choices.choices)), _read_when(choices.when))
        limits = _Range.model_validate(node)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"{where}.{'.'.join(map(str, fault['loc'][:1]))}: {fault['msg'].lower()}") from error
    whole = all(isinstance(value, int) for value in (limits.low, limits.high, limits.step or 0))
    made = Interval(key, limits.low, limits.high, limits.step, limits.log, whole, _read_when(limits.when))
    return check_interval(made, where)


def check_interval(interval: Interval, where: str) -> Interval:
    """The interval itself, if there is something in it.

    Raises:
        ConfigError: If not, or if it is logarithmic and reaches zero.
    """
    if interval.low > interval.high:
        raise ConfigError(f"{where}: low ({interval.low}) is above high ({interval.high})")
    if interval.log and interval.low <= 0:
        raise ConfigError(f"{where}: a logarithmic range begins above 0, not at {interval.low}")
    if interval.step is not None and (interval.step <= 0 or interval.log):
        raise ConfigError(f"{where}: step ({interval.step}) must be above 0, and goes without log")
    return interval


def _read_when(when: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    listed = {key: values if isinstance(values, list) else [values] for key, values in when.items()}
    return {key: tuple(map(text_of, values)) for key, values in listed.items()}


def order_space(dimensions: Sequence[Dimension], fixed: Mapping[str, str]) -> tuple[Dimension, ...]:
    """The dimensions, each after those that its `when` names; otherwise in the order given.

    Args:
        dimensions: All of them.
        fixed: What does not vary, which may decide conditions once and for all.

    Raises:
        ConfigError: If a condition names what is neither varied nor given, or conditions go in a circle.
    """
    known = {dimension.key for dimension in dimensions}
    for dimension in dimensions:
        for key in dimension.when:
            if key not in known | set(fixed):
                raise ConfigError(f"sweep.search.{dimension.key}.when: '{key}' is neither searched nor given")
    ordered: list[Dimension] = []
    waiting = list(dimensions)
    while waiting:
        placed = {dimension.key for dimension in ordered}
        ready = next((item for item in waiting if set(item.when) & known <= placed), None)
        if ready is None:
            raise ConfigError(f"sweep.search.{waiting[0].key}.when: the conditions go in a circle")
        ordered.append(ready)
        waiting.remove(ready)
    return tuple(ordered)


def matters(dimension: Dimension, chosen: Mapping[str, str]) -> bool:
    """Whether a dimension's condition holds."""
    return all(chosen.get(key) in values for key, values in dimension.when.items())


def expand(space: Sequence[Dimension], fixed: Mapping[str, str]) -> Iterator[Assignment]:
    """Every combination, the last dimension first to change; conditions that fail leave a dimension out."""

    def walk(rest: Sequence[Dimension], chosen: Assignment) -> Iterator[Assignment]:
        if not rest:
            yield chosen
            return
        first, *others = rest
        if not matters(first, {**fixed, **chosen}):
            yield from walk(others, chosen)
            return
        for value in first.values if isinstance(first, Choice) else first.listed():
            yield from walk(others, {**chosen, first.key: value})

    yield from walk(list(space), {})


def examples(space: Sequence[Dimension], fixed: Mapping[str, str]) -> Iterator[Assignment]:
    """Assignments that together hold every choice and both ends of every range at least once, where they can matter.

    The first one has every dimension at its first value.
    """
    by_key = {dimension.key: dimension for dimension in space}

    def wanted_by(dimension: Dimension) -> Assignment:
        """What must be chosen for a dimension to matter."""
        wanted: Assignment = {}
        for key, values in dimension.when.items():
            if key in by_key:
                wanted |= wanted_by(by_key[key]) | {key: values[0]}
        return wanted

    def assign(wanted: Assignment) -> Assignment:
        chosen: Assignment = {}
        for dimension in space:
            if matters(dimension, {**fixed, **chosen}):
                chosen[dimension.key] = wanted.get(dimension.key, dimension.ends[0])
        return chosen

    first = assign({})
    yield first
    for dimension in space:
        for value in dimension.ends:
            made = assign({**wanted_by(dimension), dimension.key: value})
            if made != first and made.get(dimension.key) == value:
                yield made


def words_of(chosen: Mapping[str, str]) -> tuple[str, ...]:
    """Override words; groups come out in the order in which they were chosen."""
    return tuple(f"{key}={value}" for key, value in chosen.items())
