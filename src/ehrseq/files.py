"""Folders that are either whole or not there: atomic writes, digests, manifests, locks.

Every workflow writes into a temporary sibling folder and renames it at the end, so that a reader, a second process or a
killed one never sees half an output.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3

from ehrseq.errors import EhrseqError

MANIFEST = "manifest.json"
# Raised whenever what a workflow writes changes meaning, so that old outputs are not taken for new ones.
FORMAT = 3

_CHUNK = 1 << 20
_STAGING = ".partial"


def digest_json(value: object) -> str:
    """A short SHA-256 (16 hex digits) of plain JSON data, independent of key order."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def digest_file(path: Path) -> str:
    """BLAKE3 of a file's bytes, in hex: a cryptographic digest that costs less than reading the file does."""
    return str(blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest())


def digest_files(paths: Iterable[Path], root: Path) -> str:
    """One digest of several files: their names relative to `root` and their bytes, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()}\0{digest_file(path)}\n".encode())
    return total.hexdigest()[:16]


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys and a final newline: equal values give equal bytes."""
    path.write_text(json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        EhrseqError: If the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EhrseqError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EhrseqError(
            f"{path} is not valid JSON ({error}); it was changed or cut short after it was written"
        ) from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished output folder, or None where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest: dict[str, Any] = read_json(path)
    return manifest


def is_current(folder: Path, key: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the finished output that `key` (config digest, input digests) describes."""
    manifest = read_manifest(folder)
    return manifest is not None and manifest.get("format") == FORMAT and manifest.get("key") == dict(key)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give an empty staging folder that becomes `target` when the block ends without an error.

    The staging folder lies beside the target, hence in the same file system, where a rename is atomic. Content is
    flushed to disk first. An existing target is replaced. On an error nothing of the staging folder is left.

    Args:
        target: The folder to make.

    Yields:
        The staging folder to write into.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent / f".{target.name}.{os.getpid()}{_STAGING}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        for path in staging.rglob("*"):
            if path.is_file():
                _flush(path)
        if target.exists():
            # Two renames: for a moment nothing is there, but never something half-written.
            old = staging.with_name(f"{staging.name}.old")
            target.rename(old)
            staging.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            staging.rename(target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` that replaces it when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as matplotlib choose the format by it.
    staging = target.with_name(f".{target.stem}.{os.getpid()}{_STAGING}{target.suffix}")
    try:
        yield staging
        _flush(staging)
        staging.replace(target)
    finally:
        staging.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made where missing), waiting for other processes that hold it.

    The operating system lets go of the lock when its holder dies, so a killed process blocks nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def sweep_leftovers(folder: Path) -> None:
    """Remove staging folders and files that a killed process left directly under `folder`.

    What a living process of this machine is writing is left alone.
    """
    for path in folder.glob(f".*{_STAGING}*"):
        owner = re.search(rf"\.(\d+)\{_STAGING}", path.name)
        if owner and _is_alive(int(owner[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_manifest(folder: Path, workflow: str, key: Mapping[str, Any], **facts: Any) -> None:
    """Write `manifest.json` of an output folder: what it was made from and what it holds.

    Args:
        folder: The (staging) folder; the digest of every file in it is recorded.
        workflow: Name of the workflow that wrote it.
        key: What determines the output: config digest and input digests. `is_current` compares it.
        **facts: Anything else worth keeping, such as versions and row counts.
    """
    files = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, {"workflow": workflow, "format": FORMAT, "key": dict(key), "files": files, **facts})
