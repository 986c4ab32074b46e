"""Checks of constructor arguments: each raises a one-line `ConfigError` naming argument, value and what is allowed."""

from collections.abc import Sequence
from math import isfinite

from ehrseq.errors import ConfigError, suggest


def check_count(name: str, value: int, least: int = 1) -> int:
    """Give `value` back if it is a whole number of at least `least`.

    >>> check_count("hidden_size", 64)
    64

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; allowed are whole numbers from {least} up")
    return value


def check_probability(name: str, value: float) -> float:
    """Give `value` back if it is a number from 0 up to, but not including, 1.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name} is {value!r}; allowed are numbers from 0 up to, but not including, 1")
    return float(value)


def check_positive(name: str, value: float) -> float:
    """Give `value` back if it is a finite number above 0.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 and isfinite(value)):
        raise ConfigError(f"{name} is {value!r}; allowed are numbers above 0")
    return float(value)


def check_flag(name: str, value: bool) -> bool:
    """Give `value` back if it is a truth value: the text "false" is none.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; allowed are true and false")
    return value


def check_choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """Give `value` back if it is one of the `allowed` words.

    Raises:
        ConfigError: If it is not.
    """
    if value not in allowed:
        hint = suggest(str(value), list(allowed))
        raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))} ({hint})")
    return value
