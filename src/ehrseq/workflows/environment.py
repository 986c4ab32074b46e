"""What a run was made with: interpreter, packages, machine, code version."""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import ehrseq
from ehrseq.files import digest_files

# `importlib.metadata` parses all of a package's metadata for either, which for some hundred packages takes seconds.
_NAME_AND_VERSION = re.compile(r"^(Name|Version): *(\S+)", re.MULTILINE)


def environment() -> dict[str, Any]:
    """Python, packages, machine and git state, as plain JSON types."""
    packages: dict[str, str] = {}
    for item in metadata.distributions():
        head = (item.read_text("METADATA") or item.read_text("PKG-INFO") or "").partition("\n\n")[0]
        found = dict(_NAME_AND_VERSION.findall(head))
        if "Name" in found:
            # Of a package that is there twice, the first one is imported.
            packages.setdefault(normal_name(found["Name"]), found.get("Version", "unknown"))
    root = Path(ehrseq.__file__).parent
    return {
        "ehrseq": ehrseq.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
        "git": git_state(root),
        "code": digest_files(root.rglob("*.py"), root),
        "packages": dict(sorted(packages.items())),
    }


def normal_name(name: str) -> str:
    """A package's name as PyPI compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_used() -> set[str]:
    """The installed packages that ehrseq needs, directly or through others, optional ones with them."""
    found: set[str] = set()
    waiting = [*_required("ehrseq", optional=True), "dvc", "ray", "lightgbm"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _required(name)
    return found


def _required(name: str, optional: bool = False) -> list[str]:
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    wanted = [line for line in requirements if optional or "extra ==" not in line]
    return [normal_name(match[0]) for line in wanted if (match := re.match(r"[\w.-]+", line))]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout a folder lies in, and whether tracked files differ from it; None outside of git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
