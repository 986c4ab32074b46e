"""A process of its own for each trial, forked from one that has imported everything already.

Whatever a trial does (an exception, `os._exit`, a segmentation fault, memory running out) ends that process alone.
The processes are children of a fork server (of the standard library): it imports torch, Lightning and MLflow once,
uses none of them, and so can be forked in milliseconds.
"""

import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ehrseq.errors import EhrseqError, Pruned, is_out_of_memory
from ehrseq.sweeps.records import Failure, Status

Ask = Callable[[Any], Any]
_PATIENCE = 15.0  # seconds between SIGTERM and SIGKILL
_TAIL = 40  # lines of a log that stand for a traceback


@dataclass(frozen=True)
class Limits:
    """What a trial may use.

    Attributes:
        threads: Of the processor.
        memory_gib: Of private memory; None: what there is.
        minutes: Of time; None: any.
    """

    threads: int
    memory_gib: float | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: In a word.
        result: What the function gave.
        failure: What went wrong.
        seconds: How long it took, from the fork.
    """

    status: Status
    result: Any
    failure: Failure | None
    seconds: float


class Sandbox:
    """Runs functions in processes that were forked from one with everything imported.

    Args:
        preload: Modules to import there; none of them may start threads that matter.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        # A joblib worker has a way of its own to start processes, of which those that it starts know nothing.
        if multiprocessing.get_start_method(allow_none=True) not in (None, *multiprocessing.get_all_start_methods()):
            multiprocessing.set_start_method("forkserver", force=True)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._running: set[Any] = set()
        self._stopping = threading.Event()

    def warm_up(self) -> None:
        """Let the imports begin, while something else is done."""
        from multiprocessing import forkserver

        forkserver.ensure_running()

    def run(self, function: Callable[[Any, Ask], Any], argument: Any, log: Path, limits: Limits, answer: Ask) -> Ended:
        """Call a function in a process of its own and wait for it.

        Args:
            function: Takes the argument and a function that asks this process something.
            argument: Can be pickled.
            log: Where its output goes.
            limits: What it may use.
            answer: Called here with whatever the function asks; what it returns is the answer.

        Raises:
            Stopped: If `stop` was called.
        """
        if self._stopping.is_set():
            raise Stopped
        started = time.monotonic()
        deadline = None if limits.minutes is None else started + limits.minutes * 60
        ours, theirs = self._context.Pipe()
        kills = _oom_kills()
        process = self._context.Process(target=_enter, args=(function, argument, theirs, str(log), limits), daemon=True)
        process.start()
        theirs.close()
        self._running.add(process)
        ending: tuple[str, Any] | None = None
        timed_out = False
        try:
            while ending is None:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready = wait([ours, process.sentinel], left)
                if not ready:
                    timed_out = True
                    break
                try:
                    kind, payload = ours.recv()
                except (EOFError, OSError):
                    break
                if kind == "ask":
                    ours.send(answer(payload))
                else:
                    ending = kind, payload
            self._end(process, timed_out)
        finally:
            self._running.discard(process)
            ours.close()
        if self._stopping.is_set():
            raise Stopped
        seconds = time.monotonic() - started
        if ending is not None and ending[0] == "result":
            return Ended("finished", ending[1], None, seconds)
        if ending is not None:
            status, failure = ending[1]
            return Ended(status, None, failure, seconds)
        status, failure = _post_mortem(process.exitcode, log, timed_out, limits, kills)
        return Ended(status, None, failure, seconds)

    def stop(self) -> None:
        """End everything that runs; each gets a moment to say so where it is tracked."""
        self._stopping.set()
        running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            process.join(_PATIENCE)
            process.kill()

    def _end(self, process: Any, timed_out: bool) -> None:
        if timed_out:
            process.terminate()
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


class Stopped(BaseException):
    """The sweep was interrupted while a trial ran."""


def _post_mortem(code: int | None, log: Path, timed_out: bool, limits: Limits, kills: int) -> tuple[Status, Failure]:
    """What is to be said of a process that ended without a word."""
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]) if log.is_file() else ""
    if timed_out:
        return "timed_out", Failure("Timeout", f"not done after {limits.minutes:g} minutes", tail)
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and _oom_kills() > kills:
            return "out_of_memory", Failure(name, "killed by the system, whose memory ran out", tail)
        hint = "; perhaps memory ran out" if -code == signal.SIGKILL else ""
        return "crashed", Failure(name, f"its process was ended by {name}{hint}", tail)
    return "crashed", Failure("ProcessExit", f"its process ended with exit code {code}, without a result", tail)


def _oom_kills() -> int:
    """How many processes this system has killed for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _enter(function: Callable[[Any, Ask], Any], argument: Any, pipe: Connection, log: str, limits: Limits) -> None:
    """The life of the process: set up, call, say how it went."""
    _set_up(log, limits)

    def ask(question: Any) -> Any:
        pipe.send(("ask", question))
        return pipe.recv()

    try:
        ending = "result", function(argument, ask)
    except BaseException as error:
        traceback.print_exc()
        ending = "failed", _describe(error)
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.send(ending)
    pipe.close()
    # Nothing is left to do, and threads of libraries are not waited for.
    os._exit(0)


def _set_up(log: str, limits: Limits) -> None:
    """Output into the log, threads and memory limited, not outliving the process that waits for it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    # Also where the standard streams were not those two, as in a test.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    faulthandler.enable(sys.stderr)
    os.setsid()  # Ctrl-C is for the process that waits, which ends this one in good order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    _limit(limits)


def _limit(limits: Limits) -> None:
    environment: Mapping[str, str] = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), str(limits.threads)
    )
    os.environ.update(environment)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(limits.threads)
    if limits.memory_gib is not None:
        size = int(limits.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    if sys.platform == "linux":
        # When memory runs out, the system shall take this process and not the one that keeps the books.
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def _die_with_parent() -> None:
    """A trial whose sweep was killed must not go on unseen, beside the one that takes its place."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _describe(error: BaseException) -> tuple[Status, Failure]:
    """What is to be said of an exception, and whether it is one of those that a trial may end with."""
    message = " ".join(str(error).split())[:500]
    text = "".join(traceback.format_exception(error))
    failure = Failure(type(error).__name__, message, text)
    if isinstance(error, Pruned):
        return "pruned", failure
    if is_out_of_memory(error):
        return "out_of_memory", failure
    if isinstance(error, EhrseqError):
        return "failed", failure
    return "crashed", failure
