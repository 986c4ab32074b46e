"""Where a training keeps what it goes on from when it is killed, and when that may be used."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ehrseq import __version__
from ehrseq.config.identity import flatten_keys
from ehrseq.config.load import dump_settings, overlay, read_settings
from ehrseq.config.schema import Loader, Settings, Trainer
from ehrseq.errors import ConfigError, Pruned, RunError
from ehrseq.files import read_json, write_json

CHECKPOINTS = "checkpoints"
_KEY, _CONFIG = "key.json", "config.yaml"
# What may differ when a training goes on: it has no part in the weights.
_FREE = (
    *("engine", "evaluate", "explain", "audit", "tracking", "resume", "force"),
    *(f"trainer.{name}" for name in Trainer.harmless),
    *(f"loader.{name}" for name in Loader.harmless),
)


@contextmanager
def checkpoints(settings: Settings, folder: Path, key: Mapping[str, Any]) -> Iterator[Path]:
    """The folder for the checkpoints of one training; gone when the block ends well.

    What is there of another training, or of another version of the packages, is removed first.

    Args:
        settings: Kept beside them, for `resume=`.
        folder: Which.
        key: What determines the training.
    """
    if settings.force or not is_begun(folder, key):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _CONFIG).write_text(dump_settings(settings), encoding="utf-8")
        write_json(folder / _KEY, _with_versions(key))
    try:
        yield folder
    except Pruned:
        shutil.rmtree(folder)  # nobody will go on with what is hopeless
        raise
    shutil.rmtree(folder)


def is_begun(folder: Path, key: Mapping[str, Any]) -> bool:
    """Whether the folder holds checkpoints of this very training."""
    return (folder / _KEY).is_file() and read_json(folder / _KEY) == _with_versions(key)


def _with_versions(key: Mapping[str, Any]) -> dict[str, Any]:
    from importlib.metadata import version

    return {**key, "versions": {"ehrseq": __version__, **{name: version(name) for name in ("torch", "numpy")}}}


def resumed(settings: Settings, overrides: list[str], extra: Path | None = None) -> Settings:
    """The settings of the run that `resume=` names, with a command's harmless changes.

    Args:
        settings: Composed from the command's words; `resume` is the run folder.
        overrides: Those words.
        extra: A folder of the user's own with more options for the groups.

    Raises:
        RunError: If there is nothing to go on from.
        ConfigError: If something differs that has a part in the result; it is named.
    """
    assert settings.resume is not None
    folder = Path(settings.resume).expanduser()
    folder = folder.parent if folder.name == CHECKPOINTS else folder
    kept = folder / CHECKPOINTS / _CONFIG
    if not kept.is_file():
        done = " (its training is finished)" if (folder / "train").is_dir() else ""
        raise RunError(f"resume={settings.resume}: no checkpoints there{done}")
    before = read_settings(kept)
    after = overlay(before, overrides, extra, tuple(Settings.model_fields))
    old, new = dict(flatten_keys(before.plain())), dict(flatten_keys(after.plain()))
    differences = [
        f"{name} was {old.get(name)} and would be {new.get(name)}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name) and not any(name == free or name.startswith(f"{free}.") for free in _FREE)
    ]
    if differences:
        raise ConfigError(
            f"resume={settings.resume}: {'; '.join(differences)}; that would be another training: leave it out, or "
            f"train anew without resume. Free to differ are {', '.join(_FREE[:-1])}"
        )
    return after
