"""Making a run again somewhere else, and saying whether it came out the same, or what is different."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ehrseq.config.identity import flatten_keys
from ehrseq.config.load import change
from ehrseq.config.schema import Loader, Settings, Trainer
from ehrseq.config.targets import prediction_names
from ehrseq.errors import RunError
from ehrseq.files import MANIFEST, digest_file, read_json, read_manifest, write_json
from ehrseq.workflows import experiment
from ehrseq.workflows.console import say, timed
from ehrseq.workflows.environment import environment, packages_used
from ehrseq.workflows.evaluate import METRICS, PREDICTIONS
from ehrseq.workflows.runs import CONFIG, EVALUATE, TRAIN, TrainedRun, find_run, open_run
from ehrseq.workflows.scored import KEYS
from ehrseq.workflows.train import DATA, ENVIRONMENT

Verdict = Literal["equal", "within tolerance", "different"]
EXIT_CODES: dict[Verdict, int] = {"equal": 0, "within tolerance": 3, "different": 4}
RESULT = "reproduction.json"
# What the settings of a repetition may differ in without being another run.
_ELSEWHERE = ("paths", "tracking", "explain", "audit", "resume", "run", "output", "force", "source.path")
# What is in each file of a store, for people.
_CONTENT = {
    "sample_label.npy": "labels",
    "sample_auxiliary.npy": "labels of auxiliary targets",
    "sample_time.npy": "prediction times",
    "sample_split.npy": "splits",
    "event.npy": "events",
    "static.npy": "static features",
    "preprocessor.json": "fitted preprocessing",
}


@dataclass(frozen=True)
class Difference:
    """Something that was otherwise when the run was made.

    Attributes:
        what: `package`, `code`, `python`, `machine`, `setting`, `seed`, `data`, `labels` or `file`.
        name: Which one.
        then: As it was, where that is known.
        now: As it is.
    """

    what: str
    name: str
    then: str
    now: str

    def __str__(self) -> str:
        name = "" if self.name == self.what else f" {self.name}"
        return f"{self.what}{name}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Reproduced:
    """What `reproduce` gives.

    Attributes:
        folder: Where the repetition is.
        verdict: Whether predictions are the same.
        differences: What is otherwise in code, environment, settings and data.
        results: How weights, predictions and metrics compare, a line each.
    """

    folder: Path
    verdict: Verdict
    differences: tuple[Difference, ...]
    results: tuple[str, ...]


def run(settings: Settings, reference: str, overrides: Sequence[str] = ()) -> Reproduced:
    """Make a run again in a folder of its own, from raw data on, and compare.

    Args:
        settings: `paths`, `tracking.uri`, `output`, `reproduce`, `force`.
        reference: Run folder or MLflow run id.
        overrides: Changes to single values of the run's settings, such as where its data lie now.

    Raises:
        RunError: If there is no such run, it has no predictions, or the folder is taken.
    """
    trained = find_run(reference, settings)
    if not (trained.folder / EVALUATE / MANIFEST).is_file():
        raise RunError(f"{reference}: the run has no predictions to compare with; score it first: ehrseq evaluate")
    folder = Path(settings.output or f"reproductions/{trained.folder.name}")
    _clear(folder, settings.force)
    wanted = change(trained.settings, overrides)
    differences = [*_changed_files(trained), *_changed_settings(trained, wanted), *_changed_environment(trained)]
    for difference in differences:
        say(f"reproduce: {difference}")
    again = _elsewhere(wanted, folder)
    _take_threads(trained)
    with timed("reproduce: made again"):
        repeated = open_run(experiment.run(again).folder)
    changed = _changed_data(trained, repeated)
    for difference in changed:
        say(f"reproduce: {difference}")
    verdict, results = _compare(trained, repeated, settings.reproduce.tolerance)
    result = Reproduced(folder, verdict, (*differences, *changed), tuple(results))
    plain = {"verdict": verdict, "differences": [asdict(item) for item in result.differences], "results": results}
    write_json(folder / RESULT, {"run": trained.folder.name, **plain})
    return result


def _take_threads(trained: TrainedRun) -> None:
    """As many threads as the training had: how sums are split, and so how they are rounded, follows from it."""
    if threads := read_json(trained.folder / TRAIN / ENVIRONMENT).get("threads"):
        import torch

        torch.set_num_threads(threads)


def _clear(folder: Path, force: bool) -> None:
    """Make room; what was made there before would only be found again."""
    parts = [folder / "data", folder / "runs"]
    if any(part.exists() for part in parts) and not force:
        raise RunError(f"{folder} holds a repetition already; force=true makes it anew, output=... makes another")
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _elsewhere(settings: Settings, folder: Path) -> Settings:
    """The same run in another folder, without what does not touch predictions."""
    update = {
        "paths": settings.paths.model_copy(update={"data": str(folder / "data"), "runs": str(folder / "runs")}),
        "tracking": settings.tracking.model_copy(update={"enabled": False}),
        "explain": settings.explain.model_copy(update={"enabled": False}),
        "audit": settings.audit.model_copy(update={"shuffled_labels": False}),
        "force": False,
    }
    return settings.model_copy(update=update)


def _changed_files(trained: TrainedRun) -> list[Difference]:
    """Files of the run that are no longer what the training wrote."""
    manifest = read_manifest(trained.folder / TRAIN) or {}
    found = []
    for name, digest in manifest.get("files", {}).items():
        path = trained.folder / TRAIN / name
        if name.startswith("checkpoints/") and not path.is_file():
            continue  # they stay where the run was made
        now = digest_file(path)[:16] if path.is_file() else "missing"
        if now != digest[:16]:
            found.append(Difference("file", f"{TRAIN}/{name}", digest[:16], now))
    if trained.key["seed"] != trained.settings.seed:
        found.append(Difference("seed", f"in {TRAIN}/{CONFIG}", str(trained.key["seed"]), str(trained.settings.seed)))
    return found


def _changed_settings(trained: TrainedRun, wanted: Settings) -> list[Difference]:
    """Settings that the command changes."""
    then, now = dict(flatten_keys(trained.settings.plain())), dict(flatten_keys(wanted.plain()))
    found = []
    for key in dict.fromkeys((*then, *now)):
        section, _, last = key.rpartition(".")
        harmless = {"trainer": Trainer.harmless, "loader": Loader.harmless}.get(section, ())
        elsewhere = last in harmless or any(key == word or key.startswith(f"{word}.") for word in _ELSEWHERE)
        if then.get(key) != now.get(key) and not elsewhere:
            kind = "seed" if key == "seed" else "setting"
            found.append(Difference(kind, key, str(then.get(key, "not set")), str(now.get(key, "not set"))))
    return found


def _changed_environment(trained: TrainedRun) -> list[Difference]:
    """Code, interpreter, packages and machine."""
    then: dict[str, Any] = read_json(trained.folder / TRAIN / ENVIRONMENT)
    now = environment()
    found = []
    if then.get("code") != now["code"]:
        found.append(Difference("code", "ehrseq", _code(then), _code(now)))
    found += [
        Difference(what, name, str(then.get(key)), str(now[key]))
        for what, name, key in (("python", "version", "python"), ("machine", "platform", "platform"))
        if then.get(key) != now[key]
    ]
    return found + _changed_packages(then["packages"], now["packages"])


def _code(facts: Mapping[str, Any]) -> str:
    """Which code it was, for people: version, commit, digest of the files."""
    git = facts.get("git")
    commit = f", commit {git['commit'][:12]}{' with changes' if git['changed'] else ''}" if git else ""
    return f"{facts['ehrseq']}{commit}, digest {facts.get('code')}"


def _changed_packages(then: Mapping[str, str], now: Mapping[str, str]) -> list[Difference]:
    used = packages_used()
    changed = [name for name in sorted({*then, *now} - {"ehrseq"}) if then.get(name) != now.get(name)]
    rest = [name for name in changed if name not in used]
    if rest:
        say(f"reproduce: {len(rest)} packages that ehrseq does not use are of other versions")
    return [
        Difference("package", name, then.get(name, "not installed"), now.get(name, "not installed"))
        for name in changed
        if name in used
    ]


def _changed_data(trained: TrainedRun, repeated: TrainedRun) -> list[Difference]:
    """What is otherwise in the data: what they were made from, and which files of the store came out otherwise."""
    if trained.key["store"] == repeated.key["store"]:
        return []
    path = trained.folder / TRAIN / DATA
    if not path.is_file():
        return [Difference("data", "store", trained.key["store"], repeated.key["store"])]
    then, now = read_json(path), read_json(repeated.folder / TRAIN / DATA)
    old, new = dict(flatten_keys(then["key"])), dict(flatten_keys(now["key"]))
    found = []
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key) and not key.startswith(("split.", "preprocess.")):  # named as settings
            is_label = key.startswith("task.labels")
            where = getattr(repeated.settings.task.labels, "path", None) if is_label else None
            name = f"of task.labels.path={where}" if where else key
            found.append(Difference("labels" if is_label else "data", name, str(old.get(key)), str(new.get(key))))
    for name in sorted({*then["files"], *now["files"]}):
        one, other = then["files"].get(name, "missing"), now["files"].get(name, "missing")
        if one != other and name in _CONTENT:
            kind = "labels" if "labels" in _CONTENT[name] else "data"
            found.append(Difference(kind, f"{_CONTENT[name]} ({name})", one[:16], other[:16]))
    return found


def _compare(trained: TrainedRun, repeated: TrainedRun, tolerance: float) -> tuple[Verdict, list[str]]:
    """How weights, predictions and metrics compare."""
    same = trained.weights_digest == repeated.weights_digest
    lines = [f"weights: {'identical' if same else 'different'} ({repeated.weights_digest[:16]})"]
    metrics = [read_json(item.folder / EVALUATE / METRICS) for item in (trained, repeated)]
    if not (trained.folder / EVALUATE / PREDICTIONS).is_file():
        verdict, line = _compare_digests(trained, repeated, metrics, tolerance)
        return verdict, [*lines, line, *_compare_metrics(*metrics)]
    columns = list(prediction_names(trained.target()))
    first, second = (pl.read_parquet(item.folder / EVALUATE / PREDICTIONS) for item in (trained, repeated))
    outside = [name for name in second.columns if name not in columns]
    first, second = (frame.sort(KEYS) for frame in (first, second))
    if first.columns != second.columns or not first.select(outside).equals(second.select(outside)):
        lines.append(f"predictions: of other examples or labels ({first.height:,} then, {second.height:,} now)")
        verdict = "different"
    else:
        one, other = (frame.select(columns).to_numpy().astype(np.float64) for frame in (first, second))
        largest = float(np.nanmax(np.abs(one - other), initial=0.0))
        unknown = bool((np.isnan(one) != np.isnan(other)).any())
        verdict = "different" if unknown or largest > tolerance else "within tolerance" if largest else "equal"
        how = "identical" if verdict == "equal" else f"largest difference {largest:.3g} (tolerance {tolerance:g})"
        lines.append(f"predictions: {how}, {first.height:,} histories")
    lines += _compare_metrics(*metrics)
    return verdict, lines


def _compare_digests(
    trained: TrainedRun, repeated: TrainedRun, metrics: Sequence[Mapping[str, Any]], tolerance: float
) -> tuple[Verdict, str]:
    """How predictions compare of which MLflow has only the digest, as of all that is of single histories."""
    one, other = (
        (read_manifest(item.folder / EVALUATE) or {}).get("files", {}).get(PREDICTIONS) for item in (trained, repeated)
    )
    if one == other:
        return "equal", "predictions: identical by their digest"
    values = [{name: (item[name] or {}).get("value") for name in item} for item in metrics]
    pairs = [(values[0].get(name), values[1].get(name)) for name in dict.fromkeys((*values[0], *values[1]))]
    near = all(a == b or (a is not None and b is not None and abs(a - b) <= tolerance) for a, b in pairs)
    how = f"metrics differ by at most {tolerance:g}" if near else "so are metrics"
    return "within tolerance" if near else "different", f"predictions: of another digest; {how}"


def _compare_metrics(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    changed = [name for name in dict.fromkeys((*then, *now)) if then.get(name) != now.get(name)]
    if not changed:
        return [f"metrics: all {len(now)} identical"]
    values = [(name, *((item.get(name) or {}).get("value") for item in (then, now))) for name in changed]
    return [f"metric {name}: {old} then, {new} now" for name, old, new in values]
