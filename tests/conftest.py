"""What many tests need: the real data where they are, and one small trained run."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from forked import run_forked
from servers import free_port

# Tests that run side by side have a core each; more threads would only be in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent
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
    """Runs the real command line in a folder, in a process of its own."""

    def run(*words: str, cwd: Path, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        return run_forked(*words, cwd=cwd, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Settings of a training that takes seconds."""
    return (
        *("source.n_subjects=600", "trainer.max_epochs=2", "trainer.accelerator=cpu", "evaluate.replicates=50"),
        *("explain.samples=16", "explain.judged=8", "explain.timelines=1"),
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, ehrseq: Command, tiny: tuple[str, ...]) -> Path:
    """A working folder in which `ehrseq train` was run on a little synthetic data."""
    folder = tmp_path_factory.mktemp("trained")
    done = ehrseq("train", *tiny, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def _programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) if Path("/usr/lib/postgresql").is_dir() else []
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server on the loopback, started for the tests; skips where PostgreSQL is missing."""
    folder = tmp_path_factory.mktemp("postgres")
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    data = folder / "data"
    if user:
        for path in (folder, *folder.parents):
            if path.stat().st_uid == 0 and path.is_relative_to("/tmp") and path != Path("/tmp"):
                path.chmod(0o755)
        shutil.chown(folder, "nobody")
    port = free_port()

    def call(*words: str | Path, check: bool = True) -> None:
        subprocess.run([*user, *words], check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    call(programs / "initdb", "-D", data, "-U", "ehrseq", "-A", "trust", "--no-sync")
    control = (programs / "pg_ctl", "-D", data, "-w")
    call(*control, "-o", f"-p {port} -h 127.0.0.1 -k {data} -c fsync=off", "start")
    try:
        yield f"postgresql+psycopg://ehrseq@127.0.0.1:{port}"
    finally:
        call(*control, "-m", "immediate", "stop", check=False)


@pytest.fixture(scope="session")
def new_database(postgres_server: str) -> Callable[[], str]:
    """Makes an empty database and gives its URL; MLflow and Optuna each need one of their own."""
    import psycopg

    def make() -> str:
        name = f"test_{uuid4().hex}"
        with psycopg.connect(postgres_server.replace("+psycopg", "") + "/postgres", autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload,unused-ignore]
        return f"{postgres_server}/{name}"

    return make


@pytest.fixture
def postgres(new_database: Callable[[], str]) -> str:
    """The URL of an empty database."""
    return new_database()
