"""Several processes of this machine for one experiment, each of which is told its place as torchrun would tell it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ehrseq.config.load import dump_settings
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, TrainingError
from ehrseq.files import read_json
from ehrseq.workflows.engine import cpus

RESULT = "result.json"
_POLL, _GRACE = 0.1, 30.0  # seconds


def must_launch(settings: Settings) -> bool:
    """Whether the settings ask for several processes and this is none of them yet.

    Raises:
        ConfigError: If others than asked for were launched, or several machines are asked for and nobody launched.
    """
    wanted = settings.trainer.processes
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        found = int(os.environ["WORLD_SIZE"])
        if found != wanted:
            raise ConfigError(
                f"{found} processes were launched, but trainer.devices={settings.trainer.devices} x "
                f"trainer.nodes={settings.trainer.nodes} asks for {wanted}"
            )
        return False
    if settings.trainer.nodes > 1:
        raise ConfigError(
            f"trainer.nodes={settings.trainer.nodes}: start it on each machine with torchrun --nnodes="
            f"{settings.trainer.nodes} --nproc-per-node={settings.trainer.devices} (docs/training.md says how)"
        )
    return wanted > 1


def launch(settings: Settings) -> dict[str, str | None]:
    """Run an experiment in `trainer.devices` processes of this machine, and wait for its end.

    Returns:
        `folder` and `run_id` of the run.

    Raises:
        TrainingError: If a process dies; the others are ended then.
    """
    count = settings.trainer.devices
    with TemporaryDirectory(prefix="ehrseq-launch-") as folder:
        place = Path(folder)
        (place / "settings.yaml").write_text(dump_settings(settings), encoding="utf-8")
        command = [sys.executable, "-m", "ehrseq.workflows.worker", str(place)]
        shared = {
            **os.environ,
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            # The cores are shared, unless somebody has said otherwise.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(cpus() // count, 1))),
        }
        processes = [
            subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(count)
        ]
        try:
            _wait(processes)
        finally:
            _end(processes)
        result: dict[str, str | None] = read_json(place / RESULT)
        return result


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Wait until all have ended well.

    Raises:
        TrainingError: If one died.
        SystemExit: If the first has said what is wrong, or all were stopped by a signal.
    """
    while any(process.poll() is None for process in processes):
        for rank, process in enumerate(processes):
            code = process.poll()
            if not code:
                continue
            if rank == 0 and code > 0:
                sys.exit(code)  # it has told its error
            if code > 128:
                continue  # a signal, of which the others have heard as well
            how = f"of signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise TrainingError(
                f"process {rank} of {len(processes)} died {how}; the others were ended. The same command goes on from "
                "the last checkpoint"
            )
        time.sleep(_POLL)
    if code := max(process.returncode for process in processes):
        sys.exit(code)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End those that still run: asked first, so that they can save."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.1))
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
