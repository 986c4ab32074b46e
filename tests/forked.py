"""The real command line in a process of its own, forked from one that has imported what every command would import."""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PRELOAD = [
    "ehrseq.cli",
    "ehrseq.explain",
    "ehrseq.training.fit",
    "ehrseq.workflows.experiment",
    "ehrseq.workflows.explain",
    "ehrseq.workflows.predict",
    "ehrseq.workflows.summary",
    "hydra",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOAD)


def run_forked(*words: str, cwd: Path, timeout: float) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run(["ehrseq", *words])` gives, without the seconds of imports.

    Args:
        words: The arguments.
        cwd: The working folder.
        timeout: Seconds.

    Raises:
        subprocess.TimeoutExpired: When they are over.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _CONTEXT.Process(target=_enter, args=(words, str(cwd), dict(os.environ), str(out), str(err)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["ehrseq", *words], timeout, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(["ehrseq", *words], process.exitcode, out.read_text(), err.read_text())


def _enter(words: tuple[str, ...], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    from ehrseq.cli import main

    sys.argv = ["ehrseq", *words]
    try:
        main(prog_name="ehrseq")
    finally:
        # A forked process leaves without them.
        atexit._run_exitfuncs()
