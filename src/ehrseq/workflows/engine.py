"""Who does the work of preparing: this process, several local ones, or a Ray cluster. The bytes are the same."""

import ctypes
import logging
import multiprocessing
import os
import pickle
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ehrseq.config.schema import Engine as EngineConfig
from ehrseq.errors import EhrseqError
from ehrseq.preprocess.pipeline import Engine
from ehrseq.workflows.console import progress

T = TypeVar("T")
R = TypeVar("R")

# Starting processes and importing what they need pays off from about this many events each; threads start at once.
_WORTH_A_PROCESS = 15_000_000
_WORTH_A_THREAD = 300_000
# Of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


class SerialEngine:
    """One item after the other, in this process."""

    in_process = True

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
        """The results in the order of the items."""
        with progress(what, len(items)) as advance:
            for item in items:
                yield function(item)
                advance()


class ThreadEngine:
    """Several threads of this process, for data too small to be worth starting processes.

    Args:
        workers: How many.
    """

    in_process = True

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
        """The results in the order of the items."""
        with ThreadPoolExecutor(self.workers) as pool:
            yield from _in_order([pool.submit(function, item) for item in items], what)


class ProcessEngine:
    """Several local processes, started once and kept until the engine is closed.

    Args:
        workers: How many.
    """

    in_process = False

    def __init__(self, workers: int) -> None:
        # Not forked: polars and pyarrow have threads, which a fork leaves behind with their locks held.
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=keep_freed_memory)
        self._folder = TemporaryDirectory(prefix="ehrseq-engine-")
        self._functions = 0

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
        """The results in the order of the items.

        Raises:
            EhrseqError: If a process dies, most often for want of memory.
        """
        # The function holds what all calls need, such as the subjects: it goes over once, not with every item.
        path = Path(self._folder.name) / f"{self._functions}.pickle"
        self._functions += 1
        path.write_bytes(pickle.dumps(function))
        futures = [self._pool.submit(_call, str(path), item) for item in items]
        try:
            yield from _in_order(futures, what)
        except BrokenProcessPool as error:
            raise EhrseqError(
                f"a process of the engine died in '{what}', perhaps for want of memory; finished parts are kept: "
                "start again, with engine.workers=1 if it happens again"
            ) from error

    def close(self) -> None:
        """Let the processes go."""
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


class RayEngine:
    """A Ray cluster, or the local machine where none is named; every node must see the same folders.

    Args:
        address: Of the cluster; None starts Ray here.
    """

    in_process = False

    def __init__(self, address: str | None) -> None:
        self.address = address

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
        """The results in the order of the items.

        Raises:
            EhrseqError: If Ray is not installed, or a task fails.
        """
        try:
            import ray
        except ImportError as error:
            raise EhrseqError("engine.kind=ray needs the extra: pip install 'ehrseq[ray]'") from error
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        shared = ray.put(function)
        remote: Any = ray.remote(_call_given)
        pending = [remote.remote(shared, item) for item in items]
        with progress(what, len(items)) as advance:
            for reference in pending:
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    original: BaseException = error.as_instanceof_cause()  # type: ignore[no-untyped-call,unused-ignore]
                    raise original from None
                advance()


def _in_order(futures: Sequence[Future[R]], what: str) -> Iterator[R]:
    """The results as they were asked for; what has not begun is called off if one fails or nobody asks further."""
    with progress(what, len(futures)) as advance:
        try:
            for future in futures:
                yield future.result()
                advance()
        finally:
            for future in futures:
                future.cancel()


@contextmanager
def choose_engine(config: EngineConfig, events: int) -> Iterator[Engine]:
    """The engine for so many events; small data are not worth a second process."""
    keep_freed_memory()
    if config.kind == "ray":
        yield RayEngine(config.address)
        return
    workers = config.workers or min(cpus(), events // _WORTH_A_PROCESS)
    if workers < 2:
        threads = 1 if config.workers else min(cpus(), events // _WORTH_A_THREAD)
        yield ThreadEngine(threads) if threads > 1 else SerialEngine()
        return
    engine = ProcessEngine(workers)
    try:
        yield engine
    finally:
        engine.close()


def keep_freed_memory() -> None:
    """Ask the C library to use freed memory again instead of handing it back to the system.

    Whole columns are made and freed all the time; to be given fresh, zeroed pages each time takes a sixth of all
    processor time. Only glibc is asked; others do as they like.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 1 << 26)):
        mallopt(option, value)


def cpus() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _read_function(path: str) -> Callable[[Any], Any]:
    # Written by this very engine into a folder of its own a moment ago.
    function: Callable[[Any], Any] = pickle.loads(Path(path).read_bytes())
    return function


def _call(path: str, item: Any) -> Any:
    return _read_function(path)(item)


def _call_given(function: Callable[[T], R], item: T) -> R:
    return function(item)
