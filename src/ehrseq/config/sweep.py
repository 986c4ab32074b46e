"""What `ehrseq train -m` is asked to do: the settings of the sweep, what it varies, and what all its runs share."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from ehrseq.config.address import Address
from ehrseq.config.composer import Composer
from ehrseq.config.load import check, compose, compose_sweep, groups
from ehrseq.config.messages import describe_fault
from ehrseq.config.schema import Settings
from ehrseq.config.section import Section
from ehrseq.config.space import (
    REPEATED,
    Choice,
    Dimension,
    Interval,
    check_interval,
    examples,
    expand,
    order_space,
    read_space,
    words_of,
)
from ehrseq.config.targets import more_is_better, watched
from ehrseq.errors import ConfigError, suggest
from ehrseq.files import digest_json

Direction = Literal["minimize", "maximize"]
# What must be installed for a launcher, a sampler or a study: (module, extra).
_NEEDS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "ray": ("ray", "ray"),
    "study": ("optuna", "sweep"),
    "cmaes": ("cmaes", "sweep"),
    "gp": ("scipy", "sweep"),
}
# What a run tells of itself beside what is watched on `tuning`.
_FIGURES = ("train/loss", "train/epochs", "train/seconds", "model/weights")
# What a run may differ in without being another one.
_INCIDENTAL = ("paths", "tracking", "engine", "run", "output", "resume", "force")


class Sweep(Section):
    """How a sweep is run; see `conf/sweep/` for what each key means."""

    method: Literal["grid", "study"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None
    search: dict[str, Any]
    evaluate: Literal["all", "best", "none"]
    launcher: Literal["local", "joblib", "submitit_local", "submitit_slurm", "ray"]
    jobs: PositiveInt
    threads: PositiveInt | None
    memory_gib: PositiveFloat | None
    timeout_minutes: PositiveFloat | None
    retries: NonNegativeInt
    trials: PositiveInt | None
    sampler: Literal["tpe", "random", "cmaes", "gp", "grid"] | None
    sampler_options: dict[str, Any]
    pruner: Literal["median", "percentile", "halving", "hyperband", "none"] | None
    pruner_options: dict[str, Any]
    objectives: tuple[Annotated[str, Field(pattern=r"^(tuning|train|model)/[a-z_0-9]+$")], ...]
    storage: Address | None
    seed: NonNegativeInt


class _Whole(Section):
    sweep: Sweep


@dataclass(frozen=True)
class Plan:
    """A sweep that was checked and can begin.

    Attributes:
        sweep: How.
        fixed: Override words that all its runs share.
        space: What varies, each dimension after those on which it depends.
        repeats: Words for each repetition of a configuration (seeds, folds); one empty entry where there is one only.
        extra: A folder of the user's own with more options for the groups.
        launcher_words: Override words for Hydra itself.
        base: The settings of the first run.
        objectives: What a study seeks, in this order.
        id: Names the sweep; the same for the same sweep.
    """

    sweep: Sweep
    fixed: tuple[str, ...]
    space: tuple[Dimension, ...]
    repeats: tuple[tuple[str, ...], ...]
    extra: Path | None
    launcher_words: tuple[str, ...]
    base: Settings
    objectives: tuple[tuple[str, Direction], ...]
    id: str

    @property
    def held(self) -> dict[str, str]:
        """The values of what does not vary, as far as words give them."""
        return {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in self.fixed}

    @property
    def combinations(self) -> list[dict[str, str]]:
        """Every configuration of a grid."""
        return list(expand(self.space, self.held))

    @property
    def trials(self) -> int:
        """How many configurations are tried."""
        if self.sweep.method == "grid" or self.sweep.sampler == "grid":
            return len(self.combinations)
        return self.sweep.trials or 1

    def words(self, chosen: Mapping[str, str], repeat: int = 0) -> tuple[str, ...]:
        """All words of one run."""
        return (*self.fixed, *words_of(chosen), *self.repeats[repeat])


def read_plan(overrides: Sequence[str], extra: Path | None = None) -> Plan:
    """Understand the words of `ehrseq train -m`, and check every value that they can lead to.

    Args:
        overrides: Hydra override words: several values (`model=lstm,gru`), ranges (`interval(1e-4,1e-2)`,
            `tag(log,interval(...))`, `range(1,5)`), `sweep=...`, `sweep.*=...`, `hydra.launcher.*=...`, and fixed ones.
        extra: A folder of the user's own with more options for the groups.

    Raises:
        ConfigError: If a word is wrong, a value does not fit, or something that is needed is not installed.
    """
    own, launcher_words, fixed, varied, repeated = _sort(overrides, extra)
    sweep = check_sweep(compose_sweep([*own, *fixed], extra))
    by_key: dict[str, Dimension] = {}
    for dimension in (*read_space(sweep.search), *varied):
        by_key[dimension.key] = dimension  # the command line counts more than the file
    for key in REPEATED:
        if key in by_key:
            repeated.append(_as_choice(by_key.pop(key)))
    plan = Plan(sweep, tuple(fixed), (), (), extra, tuple(launcher_words), check(compose(fixed, extra)), (), "")
    held = plan.held
    space = order_space([item for key, item in by_key.items() if key not in held], held)
    repeats = tuple(words_of(chosen) for chosen in expand(repeated, {}))
    plan = replace(plan, space=space, repeats=repeats)
    composer = Composer(extra)
    for chosen in examples(space, held):
        # One run after the other would find a wrong value only when it is its turn.
        settings = composer.settings(plan.words(chosen))
        plan = plan if plan.id else replace(plan, base=settings, id="checked")
    for chosen in examples(repeated, {}):
        composer.settings((*plan.fixed, *words_of(chosen)))
    plan = replace(plan, objectives=_objectives(sweep, plan.base))
    _check_method(plan)
    if sweep.method == "grid" or sweep.sampler == "grid":
        plan = replace(plan, space=tuple(map(_as_choice, space)))
    return replace(plan, id=sweep.name or _identify(plan))


def check_sweep(plain: Mapping[str, Any]) -> Sweep:
    """Check the settings of a sweep.

    Raises:
        ConfigError: Naming the first key that does not fit.
    """
    try:
        return _Whole.model_validate({"sweep": plain}).sweep
    except ValidationError as error:
        raise ConfigError(describe_fault(error, {"sweep": plain}, _Whole)) from error


_Sorted = tuple[list[str], list[str], list[str], list[Dimension], list[Choice]]


def _sort(overrides: Sequence[str], extra: Path | None) -> _Sorted:
    """The words about the sweep, about Hydra, those that all runs share; then dimensions and repetitions."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    sorted_words: _Sorted = ([], [], [], [], [])
    own, launcher, fixed, varied, repeated = sorted_words
    for word in overrides:
        try:
            override = parser.parse_override(word)
        except HydraException:
            fixed.append(word)  # refused by compose, with a message
            continue
        key = override.key_or_group
        if key.split(".")[0] == "sweep":
            # Options of Optuna's own classes are not in the file, which Hydra would refuse.
            own.append(f"++{word}" if "_options." in key and word[0] not in "+~" else word)
        elif key.split(".")[0].split("/")[0] == "hydra":
            launcher.append(word)
        elif not override.is_sweep_override():
            fixed.append(word)
        else:
            dimension = _dimension(override, extra)
            if key in REPEATED:
                repeated.append(_as_choice(dimension))
            else:
                varied.append(dimension)
    return sorted_words


def _as_choice(dimension: Dimension) -> Choice:
    return dimension if isinstance(dimension, Choice) else Choice(dimension.key, dimension.listed(), dimension.when)


def _dimension(override: Any, extra: Path | None) -> Dimension:
    """What one override word with several values varies."""
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        tags, low, high = value.tags, value.start, value.end
        assert low is not None
        assert high is not None
        whole = isinstance(low, int) and isinstance(high, int)
        return check_interval(Interval(key, low, high, log="log" in tags, whole=whole), override.input_line)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return Choice(key, tuple(override.sweep_string_iterator()))
    if isinstance(value, Glob):
        matching = value.filter(groups(extra).get(override.key_or_group, []))
        if not matching:
            raise ConfigError(f"'{override.input_line}' fits no option; see ehrseq config --groups")
        return Choice(key, tuple(matching))
    return Choice(key, tuple(override.sweep_string_iterator()))


def _objectives(sweep: Sweep, base: Settings) -> tuple[tuple[str, Direction], ...]:
    names = sweep.objectives or (base.trainer.monitor,)
    return tuple((name, _direction(name)) for name in names)


def _direction(name: str) -> Direction:
    # Weights, epochs, seconds and losses: the fewer the better.
    return "maximize" if name.startswith("tuning/") and more_is_better(name) else "minimize"


def _check_method(plan: Plan) -> None:
    """Refuse what does not go together, before anything begins.

    Raises:
        ConfigError: Saying what, and what to do.
    """
    sweep = plan.sweep
    sampler = sweep.sampler if sweep.method == "study" else None
    for key, choice in (("launcher", sweep.launcher), ("method", sweep.method), ("sampler", sampler)):
        module, extra = _NEEDS.get(choice or "", (None, None))
        if module is not None and not _is_installed(module):
            raise ConfigError(f"sweep.{key}={choice} needs an extra: pip install 'ehrseq[{extra}]'")
    if plan.base.trainer.processes > 1:
        given = plan.base.trainer.processes
        raise ConfigError(f"trainer.processes={given}: a trial of a sweep is one process; use sweep.jobs={given}")
    if sweep.method == "grid":
        return
    for key in ("trials", "sampler", "pruner", "storage"):
        if getattr(sweep, key) is None:
            raise ConfigError(f"sweep.method=study needs sweep.{key}; begin with sweep=optuna")
    if not plan.space:
        raise ConfigError("nothing varies: give several values (model=lstm,gru), ranges, or sweep.search in a file")
    known = [*_FIGURES, *(f"tuning/{name}" for name in ("loss", *watched(plan.base.task.target)))]
    for name, _ in plan.objectives:
        if name not in known:
            raise ConfigError(f"sweep.objectives={name}: no figure of these runs; {suggest(name, known)}")
    if len(plan.objectives) > 1 and sweep.pruner != "none":
        raise ConfigError("sweep.objectives: trials are not pruned by several objectives; set sweep.pruner=none")
    if len(plan.objectives) > 1 and sweep.sampler == "cmaes":
        raise ConfigError("sweep.sampler=cmaes has one objective; tpe, gp and random take several")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _identify(plan: Plan) -> str:
    """A name that the same sweep has again: what it is made of, but not how many trials, how fast or where."""
    sweep = plan.sweep
    settings = plan.base.plain()
    for part in (*_INCIDENTAL, *(() if plan.repeats == ((),) else ("seed",))):
        settings.pop(part)
    settings["trainer"].pop("progress")
    method = {key: getattr(sweep, key) for key in ("method", "sampler", "sampler_options", "pruner", "pruner_options")}
    space = [[type(item).__name__, *map(str, vars(item).values())] for item in plan.space]
    made = {"settings": settings, "method": method, "seed": sweep.seed, "space": space, "repeats": plan.repeats}
    made["objectives"] = plan.objectives
    return f"{sweep.sampler if sweep.method == 'study' else 'grid'}-{digest_json(made)[:8]}"
