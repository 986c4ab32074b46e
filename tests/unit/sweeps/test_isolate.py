"""Whatever a trial does ends its own process alone, and what happened is known."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ehrseq.errors import Pruned, TrainingError
from ehrseq.sweeps.isolate import Ended, Limits, Sandbox

Run = Callable[..., Ended]


def deed(what: str, ask: Callable[[Any], Any]) -> Any:
    """What a trial might do."""
    print(f"about to {what}", flush=True)
    match what:
        case "return":
            return {"answer": ask("question"), "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}
        case "raise":
            raise KeyError("a mistake of ours")
        case "diverge":
            raise TrainingError("training loss became nan")
        case "prune":
            raise Pruned("given up")
        case "exit":
            os._exit(7)
        case "leave":
            sys.exit(0)
        case "fault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "vanish":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(60)
        case "gorge":
            return len(bytearray(1 << 31))
    return None


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(["ehrseq.sweeps.isolate"])


@pytest.fixture
def run(sandbox: Sandbox, tmp_path: Path) -> Run:
    def call(what: str, minutes: float | None = None, memory: float | None = None) -> Ended:
        return sandbox.run(deed, what, tmp_path / f"{what}.log", Limits(3, memory, minutes), lambda question: question)

    return call


def test_a_result_comes_back_from_another_process(run: Run, tmp_path: Path) -> None:
    ended = run("return")
    assert ended.status == "finished"
    assert ended.result["answer"] == "question"
    assert ended.result["pid"] != os.getpid()
    assert ended.result["threads"] == "3"
    assert "about to return" in (tmp_path / "return.log").read_text()


@pytest.mark.parametrize(
    ("what", "status", "kind", "told"),
    [
        ("raise", "crashed", "KeyError", "in deed"),
        ("diverge", "failed", "TrainingError", "training loss became nan"),
        ("prune", "pruned", "Pruned", ""),
        ("exit", "crashed", "ProcessExit", "about to exit"),
        ("leave", "crashed", "SystemExit", "in deed"),
        ("fault", "crashed", "SIGSEGV", "Segmentation fault"),
        ("vanish", "crashed", "SIGKILL", "about to vanish"),
    ],
)
def test_every_end_has_its_name_and_its_trace(run: Run, what: str, status: str, kind: str, told: str) -> None:
    ended = run(what)
    assert ended.failure is not None
    assert (ended.status, ended.failure.kind) == (status, kind)
    assert told in ended.failure.traceback
    assert run("return").status == "finished"  # the next one is none the worse


def test_limits_of_memory_and_time_are_kept(run: Run) -> None:
    assert run("gorge").status == "finished"
    ended = run("gorge", memory=1.0)
    assert ended.status == "out_of_memory"
    assert ended.failure is not None
    assert "in deed" in ended.failure.traceback
    started = time.monotonic()
    ended = run("hang", minutes=0.01)
    assert ended.status == "timed_out"
    assert time.monotonic() - started < 10


def test_a_trial_does_not_outlive_a_killed_sweep(tmp_path: Path) -> None:
    script = (
        "import sys, os; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from test_isolate import deed; from ehrseq.sweeps.isolate import Limits, Sandbox\n"
        "if __name__ == '__main__':\n"
        "    Sandbox(['ehrseq.sweeps.isolate']).run(deed, 'hang', Path(sys.argv[1]), Limits(1), print)\n"
    )
    file = tmp_path / "sweep.py"
    file.write_text(script)
    log = tmp_path / "hang.log"
    process = subprocess.Popen([sys.executable, file, log, Path(__file__).parent])
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        held = [path for path in Path("/proc").glob("[0-9]*/fd/1") if _points_to(path, log)]
        if not held:
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {held}")


def _points_to(path: Path, target: Path) -> bool:
    try:
        return path.readlink() == target
    except OSError:
        return False
