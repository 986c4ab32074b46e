"""What workflows say while they work: one line a fact, on standard error, so that standard output stays for results."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


def say(message: str) -> None:
    """Print one line for the person who waits."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    started = perf_counter()
    yield
    say(f"{what} ({perf_counter() - started:.1f} s)")
