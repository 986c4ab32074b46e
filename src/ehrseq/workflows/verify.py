"""Proving that prepared data are still what was written: every file against the digest in its manifest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ehrseq.config.schema import Settings
from ehrseq.errors import DataError
from ehrseq.files import FORMAT, MANIFEST, digest_file, read_manifest
from ehrseq.store import open_store
from ehrseq.workflows.console import progress


@dataclass(frozen=True)
class Verified:
    """What `verify` gives.

    Attributes:
        folders: Datasets and stores looked at.
        faults: What is wrong, a line each.
    """

    folders: list[Path]
    faults: list[str]


def run(settings: Settings) -> Verified:
    """Check all datasets and stores under `paths.data`.

    Raises:
        DataError: If there are none.
    """
    root = Path(settings.paths.data)
    folders = [path for kind in ("datasets", "stores") for path in sorted((root / kind).glob("*")) if path.is_dir()]
    folders = [path for path in folders if not path.name.startswith(".")]
    if not folders:
        raise DataError(f"paths.data={root} holds no prepared data; run `ehrseq prepare` first")
    faults: list[str] = []
    with progress("verify", len(folders)) as advance:
        for folder in folders:
            faults += _faults_of(folder)
            advance()
    return Verified(folders, faults)


def _faults_of(folder: Path) -> Iterator[str]:
    manifest = read_manifest(folder)
    if manifest is None:
        yield f"{folder} has no {MANIFEST}: it was never finished"
        return
    if manifest.get("format") != FORMAT:
        yield f"{folder} was written by another version of ehrseq (format {manifest.get('format')}, this is {FORMAT})"
        return
    expected: dict[str, str] = manifest["files"]
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    sound = True
    for name, digest in expected.items():
        if name not in found:
            yield f"{folder / name} is missing"
            sound = False
        elif digest_file(found[name]) != digest:
            yield f"{folder / name} is not what was written: its digest differs"
            sound = False
    for name in sorted(set(found) - set(expected) - {MANIFEST}):
        yield f"{folder / name} does not belong there"
    if sound and manifest["workflow"] == "store":
        try:
            open_store(folder)
        except DataError as error:
            yield str(error)
