"""From override words to checked settings, with messages that a person can act on.

The YAML files are looked for in the installed package first, then in the checkout: a wheel ships `conf/` as
`ehrseq/conf`, an editable install does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ehrseq.config.messages import describe_fault, explain_refusal
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, suggest

CONFIG_NAME = "config"


@cache
def conf_dir() -> Path:
    """The folder of the YAML files.

    Raises:
        ConfigError: If neither the package nor a checkout has it.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "conf", package.parent.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise ConfigError(f"no conf/{CONFIG_NAME}.yaml in {package} or its checkout; install ehrseq again")


def groups(extra: Path | None = None) -> dict[str, list[str]]:
    """Every config group and its options, for example {"model": ["gru", "lstm"], "model/pooling": [...]}.

    Args:
        extra: A folder of the user's own that is searched too.
    """
    found: dict[str, set[str]] = {}
    for root in (conf_dir(), extra):
        for path in root.rglob("*.yaml") if root else ():
            group = path.parent.relative_to(root or path).as_posix()
            if group != ".":
                found.setdefault(group, set()).add(path.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def load_settings(overrides: Sequence[str] = (), extra: Path | None = None) -> Settings:
    """Compose `conf/config.yaml` with Hydra overrides and check the result.

    Args:
        overrides: Hydra override words, such as `model=gru` or `optim.optimizer.lr=3e-4`.
        extra: A folder of the user's own with more options for the groups.

    Raises:
        ConfigError: If a group, key or value is unknown or does not fit, with a suggestion.
    """
    return check(compose(overrides, extra))


def compose(overrides: Sequence[str] = (), extra: Path | None = None) -> dict[str, Any]:
    """Compose `conf/config.yaml` with Hydra overrides into plain Python types: the settings of one run.

    Raises:
        ConfigError: If an override cannot be understood or applied.
    """
    return of_one_run(_compose(overrides, extra))


def compose_sweep(overrides: Sequence[str], extra: Path | None = None) -> dict[str, Any]:
    """Compose what `ehrseq train -m` is told of its sweep (the group `sweep`).

    Raises:
        ConfigError: If an override cannot be understood or applied.
    """
    sweep: dict[str, Any] = _compose(overrides, extra)["sweep"]
    return sweep


def of_one_run(plain: Mapping[str, Any]) -> dict[str, Any]:
    """A composed configuration without what says how it was chosen, or that it is one of many."""
    return {str(key): value for key, value in plain.items() if key not in {"experiment", "sweep"}}


def _compose(overrides: Sequence[str], extra: Path | None) -> dict[str, Any]:
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if extra is not None and not extra.is_dir():
        raise ConfigError(f"--config-dir {extra}: no such folder")
    try:
        plain = OmegaConf.to_container(compose_unresolved(overrides, extra), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain_refusal(overrides, groups(extra), lambda words: _compose(words, extra), error)
        raise ConfigError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a file of the configuration is not valid YAML: {' '.join(str(error).split())}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def compose_unresolved(overrides: Sequence[str], extra: Path | None) -> Any:
    """What Hydra composes, as it gives it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = list(overrides)
    if extra is not None:
        words.append(f"hydra.searchpath=[file://{extra.resolve()}]")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra_compose(CONFIG_NAME, overrides=words)


# Sections in which a key that a run's configuration lacks means what the default means: it was added later, switched
# off or without a part in the weights. What data and network are made of is never filled in.
_GROWING = (
    *("split", "preprocess", "engine", "loader", "loss", "optim", "trainer", "tracking", "evaluate", "explain"),
    *("audit", "teacher", "blend", "compare", "reproduce", "recalibration", "pretrained", "resume"),
    *("members", "members_by", "run", "output", "force"),
)


def read_settings(path: Path, of_run: bool = False) -> Settings:
    """Settings from a YAML file that holds a whole composed configuration (`params.yaml`, a run's `config.yaml`).

    Args:
        path: The file.
        of_run: Whether it is a run's, which may be of an earlier version: keys that it lacks are filled in.

    Raises:
        ConfigError: If the file cannot be read or does not fit the schema.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{path} holds no configuration; write it with `ehrseq config > {path}`")
    plain = of_one_run(plain)
    if of_run:
        with suppress(ValidationError):
            return Settings.model_validate(plain)
        defaults = compose()
        plain = _filled(plain, {name: defaults[name] for name in _GROWING if name in defaults})
    return check(plain, where=str(path))


def _filled(plain: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, with defaults for what is not; a component keeps its own arguments."""
    if "_target_" in plain:
        return dict(plain)
    filled = {**defaults, **plain}
    for name, value in plain.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            filled[name] = _filled(value, default)
    return filled


def dump_settings(settings: Settings) -> str:
    """The settings as YAML, in the order of `conf/config.yaml`."""
    return str(yaml.safe_dump(settings.plain(), sort_keys=False, allow_unicode=True))


def check(plain: Mapping[str, Any], where: str | None = None) -> Settings:
    """Check a composed configuration against the schema.

    Args:
        plain: Nested plain types.
        where: The file it came from, for the message.

    Raises:
        ConfigError: Naming the first key that does not fit, its value, and what would.
    """
    try:
        return Settings.model_validate(plain)
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ConfigError(prefix + describe_fault(error, plain)) from error


def override_keys() -> Iterator[str]:
    """Every word that may stand before `=`: groups and the dotted keys of the default configuration."""
    yield from groups()

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for name, value in node.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    yield from walk(compose(), "")


def change(base: Settings, overrides: Sequence[str]) -> Settings:
    """The settings of a finished run with single values changed.

    Args:
        base: The run's settings.
        overrides: Words `key=value`, of keys that the run has; groups cannot be chosen anew.

    Raises:
        ConfigError: If the run has no such key, or the value does not fit.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    plain = base.plain()
    for word in overrides:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise ConfigError(f"'{word}' is not an override; write key=value") from error
        node: Any = plain
        *path, last = override.key_or_group.split(".")
        for part in [*path, last]:
            if not isinstance(node, dict) or part not in node:
                names = [str(name) for name in node] if isinstance(node, dict) else []
                raise ConfigError(f"{word}: the run has no key '{override.key_or_group}'; {suggest(part, names)}")
            parent, node = node, node[part]
        if isinstance(node, dict):
            raise ConfigError(f"{word}: {override.key_or_group} is a section; give single values of it")
        parent[last] = override.value()
    return check(plain)


def overlay(base: Settings, overrides: Sequence[str], extra: Path | None, free: Sequence[str]) -> Settings:
    """The settings of a finished run with a command's overrides on top.

    Args:
        base: The run's settings.
        overrides: Hydra override words.
        extra: A folder of the user's own with more options for the groups.
        free: The sections that may differ from the run's.

    Raises:
        ConfigError: If an override touches what the run has fixed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    composed = load_settings(overrides, extra).plain()
    plain = base.plain()
    for word in overrides:
        key = OverridesParser.create().parse_override(word).key_or_group.replace("/", ".")
        section = key.split(".")[0]
        if section not in free:
            raise ConfigError(
                f"{word}: a finished run has fixed {section}; only {', '.join(free)} may be given with run="
            )
        *path, last = key.split(".")
        source, target = composed, plain
        for part in path:
            source, target = source[part], target[part]
        target[last] = source[last]
    return check(plain)
