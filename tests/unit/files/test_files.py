import subprocess
import sys
from pathlib import Path

import pytest

from ehrseq.errors import EhrseqError
from ehrseq.files import (
    atomic_file,
    atomic_folder,
    digest_files,
    digest_json,
    is_current,
    read_json,
    sweep_leftovers,
    write_manifest,
)


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError), atomic_folder(target) as staging:  # noqa: PT012
        (staging / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
    with atomic_folder(target) as staging:
        (staging / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [target]


def test_old_folder_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as staging:
        (staging / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as staging:
        raise RuntimeError
    assert (target / "a").read_text() == "1"


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as staging:  # noqa: PT012
        staging.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with atomic_file(target) as staging:
        assert staging.suffix == ".csv"
        staging.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_killed_process_leaves_nothing_that_counts(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from ehrseq.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir())
    sweep_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sweeping_spares_the_living(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("1")
        sweep_leftovers(tmp_path)
        assert (staging / "a").is_file()


def test_lock_keeps_others_out(tmp_path: Path) -> None:
    """Four processes each add one to a number a hundred times, reading and writing it separately."""
    script = (
        "import sys; from pathlib import Path; from ehrseq.files import locked\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(100):\n"
        "    with locked(path.with_suffix('.lock')):\n"
        "        path.write_text(str(int(path.read_text()) + 1))"
    )
    number = tmp_path / "number"
    number.write_text("0")
    workers = [subprocess.Popen([sys.executable, "-c", script, str(number)]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert number.read_text() == "400"


def test_manifest_says_what_is_current(tmp_path: Path) -> None:
    assert not is_current(tmp_path, {"a": 1})
    (tmp_path / "x").write_text("content")
    write_manifest(tmp_path, "demo", {"a": 1}, rows=3)
    assert is_current(tmp_path, {"a": 1})
    assert not is_current(tmp_path, {"a": 2})
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["rows"] == 3
    assert list(manifest["files"]) == ["x"]


def test_digests(tmp_path: Path) -> None:
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    (tmp_path / "x").write_text("1")
    (tmp_path / "y").write_text("2")
    first = digest_files(tmp_path.iterdir(), tmp_path)
    assert first == digest_files(sorted(tmp_path.iterdir(), reverse=True), tmp_path)
    (tmp_path / "y").write_text("3")
    assert digest_files(tmp_path.iterdir(), tmp_path) != first
    with pytest.raises(EhrseqError, match="missing"):
        read_json(tmp_path / "z")
