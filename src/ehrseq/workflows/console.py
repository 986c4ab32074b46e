"""What workflows say while they work: one line a fact, on standard error, so that standard output stays for results."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter


def is_first() -> bool:
    """Whether this process is the only one of its training, or the first of several, which speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print one line for the person who waits."""
    if not is_first():
        return
    print(message, file=sys.stderr, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    started = perf_counter()
    yield
    say(f"{what} ({perf_counter() - started:.1f} s)")


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere; gives what to call after each of `total` items."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
