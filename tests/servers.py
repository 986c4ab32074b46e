"""Servers that tests start on the loopback."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_PATIENCE = 120  # seconds; a machine that is busy is slow, not wrong


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """A program that answers on the loopback, in a process group of its own; it can be started again where it was.

    Args:
        command: What starts it; the word `{port}` becomes its port.
        folder: Where it runs.
        answers: The path that answers once it is ready.
        environment: More than that of the tests.
    """

    def __init__(
        self,
        *command: str,
        folder: Path,
        answers: str = "/health",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.command = [str(self.port) if word == "{port}" else word for word in command]
        self.folder = folder
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - gone with the object
        self._answers = answers
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env=os.environ | self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with urlopen(f"{self.uri}{self._answers}", timeout=2):
                    return
            except (URLError, OSError):
                gone = self._process.poll() is not None
                if gone or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"the server did not start:\n{self.said()}") from None
                time.sleep(0.3)

    def said(self) -> str:
        """What it has told so far."""
        return os.pread(self._log.fileno(), 2**20, 0).decode()

    def kill(self) -> None:
        """End it, without warning."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def mlflow_server(
    store: str, files: str | Path, *words: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Server:
    """An MLflow server, not yet started.

    Args:
        store: Where it keeps runs.
        files: Where it keeps files.
        words: More of the command line.
        folder: Where it runs.
        environment: More than that of the tests.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(files), *words]
    # As `ehrseq ui` has it: without the processes that wait for jobs, which take most of the processor.
    alone = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server(*command, folder=folder, environment=alone | dict(environment or {}))
