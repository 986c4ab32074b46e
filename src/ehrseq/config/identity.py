"""What a configuration is, apart from what is repeated (seeds, folds) and from where and how it is run."""

from collections.abc import Iterator, Mapping
from typing import Any

from ehrseq.config.schema import Loader, Settings, Trainer

# Sections that say where and how a run is made, not what it is.
_OUTSIDE = {
    *("seed", "evaluate", "explain", "audit", "tracking", "paths", "engine", "compare", "reproduce", "sweep"),
    *("resume", "run", "output", "force"),
}
# Which subjects are in which split: repetitions of one experiment.
_REPEATED = ("seed", "fold", "inner_fold", "site")


def configuration_of(settings: Settings) -> dict[str, Any]:
    """All that a configuration is, flat."""
    plain = {name: value for name, value in settings.plain().items() if name not in _OUTSIDE}
    plain["split"] = {name: value for name, value in plain["split"].items() if name not in _REPEATED}
    for name, section in (("trainer", Trainer), ("loader", Loader)):
        plain[name] = {key: value for key, value in plain[name].items() if key not in section.harmless}
    plain["source"].pop("path", None)  # the same data may lie elsewhere
    return dict(flatten_keys(plain))


def flatten_keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flatten_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
