"""What is said about a configuration that is wrong: one line, with what was probably meant."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ehrseq.config.components import COMPONENTS
from ehrseq.config.schema import Settings
from ehrseq.errors import suggest

Compose = Callable[[Sequence[str]], Mapping[str, Any]]


def describe_fault(error: ValidationError, plain: Mapping[str, Any], root: type[BaseModel] = Settings) -> str:
    """One line on the first fault that pydantic found in `plain`, which was to be a `root`."""
    # Unknown keys first: a misspelt key usually is why another one is missing.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    location = list(fault["loc"])
    if location[:1] in (["representation"], ["model"]):
        del location[1:2]  # which representation or kind of model it is, as pydantic counts
    elif location[:2] == ["task", "target"]:
        del location[2:3]
        if location[2:3] == ["parts"]:
            del location[5:6]
    path = [str(part) for part in location if not _is_branch(str(part))]
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = _fields_at(path[:-1], plain, root)
        return f"unknown key '{key}'; {suggest(path[-1], known)}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    if fault["type"] == "target":
        return f"{key}: {fault['msg']}"
    given = fault["input"]
    if fault["type"] == "literal_error":
        allowed = str(fault["ctx"]["expected"])
        options = [word.strip("' ") for word in allowed.replace(" or ", ", ").split(", ")]
        return f"{key}={given} is not possible; {suggest(str(given), options)}"
    return f"{key}={given} is not possible: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _is_branch(part: str) -> bool:
    """Whether pydantic put this into a location to name the branch of a union, not a key."""
    return part in {"int", "float", "bool", "str", "none"} or part.startswith(("constrained-", "literal[", "function-"))


def _fields_at(path: Sequence[str], plain: Mapping[str, Any], root: type[BaseModel]) -> list[str]:
    """The keys that the schema knows at a place in the configuration."""
    model = root
    node: Any = plain
    for part in path:
        annotation = _annotation(model, part)  # None: the name of an entry
        node = node.get(part, {}) if isinstance(node, Mapping) else {}
        if isinstance(node, Mapping) and node.get("_target_") in COMPONENTS:
            model = COMPONENTS[node["_target_"]]
        elif annotation is not None:
            candidates = [annotation, *get_args(annotation)]
            candidates = [get_args(item)[0] if get_origin(item) is Annotated else item for item in candidates]
            models = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
            named = [
                item
                for item in models
                if any(node.get(tag) in get_args(_annotation(item, tag)) for tag in ("name", "kind"))
            ]
            model = min(named or models, key=lambda item: len(item.model_fields.keys() - node.keys()))
    return [field.alias or name for name, field in model.model_fields.items()]


def _annotation(model: type[BaseModel], field: str) -> Any:
    """The annotation of a field, or None."""
    return model.model_fields[field].annotation if field in model.model_fields else None


def explain_refusal(
    overrides: Sequence[str], known: Mapping[str, list[str]], compose: Compose, error: Exception
) -> str:
    """One line on why Hydra refused the overrides: which word, and what was probably meant."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException:
            return (
                f"'{word}' is not an override; write key=value, for example model=gru or seed=2, "
                "with quotes inside around a value with spaces or =,()[]{}: source.path='\"my folder\"'"
            )
        key = override.key_or_group
        if key in known:
            value = override.value()
            for option in value if isinstance(value, list) else [value]:
                if option is not None and str(option) not in known[key]:
                    return f"{key}={option}: no such option; {suggest(str(option), known[key])}"
        elif override.is_sweep_override():
            return f"'{word}' gives several values; add -m to run them all"
        else:
            fault = _unknown_key(key, known, overrides, compose)
            if fault:
                return fault
    return " ".join(str(error).split("\n")[0].split())


def _unknown_key(key: str, known: Mapping[str, list[str]], overrides: Sequence[str], compose: Compose) -> str | None:
    """Say which part of a dotted key does not exist in the configuration with the given groups chosen."""
    chosen = [word for word in overrides if word.split("=")[0] in known]
    node: Any = compose(chosen if len(chosen) < len(overrides) else ())
    parts = key.replace("/", ".").split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, Mapping) or part not in node:
            names = [str(name) for name in node] if isinstance(node, Mapping) else []
            if depth == 0:
                names = sorted({*names, *known})
            return f"unknown key '{key}'; " + suggest(part, names)
        node = node[part]
    return None
