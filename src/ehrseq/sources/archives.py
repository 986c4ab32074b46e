"""Text files of a folder, a tar archive or a zip archive, read as bytes and never unpacked to disk."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ehrseq.errors import DataError
from ehrseq.files import digest_file, digest_files

TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar")
_GZIP, _BLOCK = b"\x1f\x8b", 1 << 20
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip")
_STAYS_A_BATCH = 8192
_BROKEN = (EOFError, OSError, gzip.BadGzipFile, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)

Stay = tuple[str, int, bytes]  # (name for messages, number, bytes)


def is_archive(path: Path) -> bool:
    """Whether the name is one of an archive that `read_texts` understands."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


def read_texts(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """The files whose names end in `suffix`, in a folder (by name) or an archive (as they come).

    Nothing is written, so a name in an archive that points outside it does no harm.

    Args:
        path: A folder, `.tar.gz`, `.tgz`, `.tar` or `.zip`.
        suffix: For example ".txt".

    Yields:
        (name for messages, bytes).

    Raises:
        DataError: If the path is missing, cannot be read, or is cut short or damaged.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        if path.is_dir():
            for file in sorted(path.iterdir()):
                if file.name.endswith(suffix) and not file.name.startswith("."):
                    yield str(file), file.read_bytes()
        elif path.name.lower().endswith(TAR_SUFFIXES):
            yield from _read_tar(path, suffix)
        elif path.name.lower().endswith(".zip"):
            yield from _read_zip(path, suffix)
        else:
            raise DataError(f"{path} is neither a folder nor one of {', '.join('*' + end for end in ARCHIVE_SUFFIXES)}")
    except _BROKEN as error:
        raise DataError(
            f"{path} cannot be read ({error or type(error).__name__}); is it complete? Download it again"
        ) from error


def digest_places(places: Sequence[Path], suffix: str) -> list[str]:
    """A digest of each of several folders or archives.

    Args:
        places: Folders or archives.
        suffix: Files of a folder whose names end otherwise do not count.
    """
    return [
        digest_files(place.glob(f"*{suffix}"), place) if place.is_dir() else digest_file(place)[:16] for place in places
    ]


def read_stays(places: Sequence[Path], suffix: str, number_of: Callable[[str], int | None]) -> Iterator[list[Stay]]:
    """Stays of one file each, so many at a time that memory stays bounded; see `read_texts`.

    Args:
        places: Folders or archives.
        suffix: For example ".txt".
        number_of: The stay's number from the name of its file; None for a file that is no stay.

    Yields:
        (name for messages, number, bytes) of each stay.

    Raises:
        DataError: As `read_texts` does, or `number_of`.
    """
    batch: list[Stay] = []
    for place in places:
        for name, data in read_texts(place, suffix):
            number = number_of(name)
            if number is None:
                continue
            batch.append((name, number, data))
            if len(batch) == _STAYS_A_BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _is_wanted(name: str, suffix: str) -> bool:
    base = PurePosixPath(name).name
    # macOS puts "._name" twins with resource forks into archives.
    return base.endswith(suffix) and not base.startswith(".")


def _read_tar(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    # The "|" modes read strictly forward: no seeking back in a compressed file.
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        with tarfile.open(fileobj=stream, mode="r|" if zipped else "r|*") as archive:
            for member in archive:
                if member.isfile() and _is_wanted(member.name, suffix):
                    file = archive.extractfile(member)
                    if file is not None:
                        yield f"{path}:{member.name}", file.read()
        # tarfile takes an end in a member's header for the end of the archive. The end of the compressed stream, with
        # its checksum, says whether all of it was there.
        while zipped and stream.read(_BLOCK):
            pass


def _read_zip(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda item: item.filename):
            if not info.is_dir() and _is_wanted(info.filename, suffix):
                try:
                    yield f"{path}:{info.filename}", archive.read(info)
                except RuntimeError as error:  # what zipfile raises for an encrypted member
                    raise DataError(f"{path}:{info.filename} cannot be read: {error}") from error
