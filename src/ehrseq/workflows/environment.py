"""What a run was made with: interpreter, packages, machine, code version."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import ehrseq


def environment() -> dict[str, Any]:
    """Python, packages, machine and git state, as plain JSON types."""
    packages = {item.name.lower(): item.version for item in metadata.distributions() if item.name}
    return {
        "ehrseq": ehrseq.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": git_state(Path(ehrseq.__file__).parent),
        "packages": dict(sorted(packages.items())),
    }


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
