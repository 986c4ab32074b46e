"""What many tests need: the real data where they are, and one small trained run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests that run side by side have a core each; more threads would only be in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent
EHRSEQ = Path(sys.executable).parent / "ehrseq"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("EHRSEQ_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set EHRSEQ_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def ehrseq() -> Command:
    """Runs the real command line in a folder."""

    def run(*words: str, cwd: Path, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([EHRSEQ, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)

    return run


TINY = ("source.n_subjects=600", "trainer.max_epochs=2", "trainer.accelerator=cpu", "evaluate.replicates=50")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command) -> Path:
    """A working folder in which `ehrseq train` was run on a little synthetic data."""
    folder = tmp_path_factory.mktemp("trained")
    done = ehrseq("train", *TINY, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder
