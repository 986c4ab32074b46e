"""Comparing, choosing and reproducing real runs: trees on synthetic data, quick to make and each seed its own."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from ehrseq.config.load import load_settings
from ehrseq.config.schema import Settings
from ehrseq.errors import ConfigError, EhrseqError, RunError
from ehrseq.metrics.comparison import compare_groups, group_runs
from ehrseq.metrics.delong import delong
from ehrseq.workflows import choose, compare, experiment, prepare, reproduce
from ehrseq.workflows.compare_report import FIGURE, HTML, JSON, MARKDOWN
from ehrseq.workflows.comparison import Comparison
from ehrseq.workflows.ledger import ledgers
from ehrseq.workflows.scored import find_runs, outcomes_of, read_scored
from ehrseq.workflows.summary import compare_and_tell, reproduce_and_tell

TREES = (
    "model=gbm",
    "explain=none",
    "evaluate.figures=false",
    "model.booster.n_estimators=40",
    "evaluate.replicates=100",
)
DATA = ("source.n_subjects=700", "split.held_out=0.3")
FEW, MANY = "model.booster.num_leaves=3", "model.booster.num_leaves=15"
SMALL = ("source.n_subjects=500", "evaluate.replicates=0")
SAMPLED = "model.booster.feature_fraction=0.3"  # so that seeds differ
Made = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder: paths are relative to it, as they are for people."""
    folder = tmp_path_factory.mktemp("comparing")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def made(place: Path) -> Made:
    """Trains, as `ehrseq train` does; gives the run folder."""

    def make(*words: str, tracking: str = "tracking=none") -> Path:
        return place / experiment.run(load_settings([*TREES, *DATA, *words, tracking])).folder

    return make


@pytest.fixture(scope="module")
def seeds(made: Made) -> list[Path]:
    """Two configurations of two seeds each, tracked."""
    words = [(leaves, f"seed={seed}") for leaves in (FEW, MANY) for seed in (1, 2)]
    return [made(*own, SAMPLED, "tracking.experiment=seeds", tracking="tracking=sqlite") for own in words]


def compared(folders: list[Path], *words: str) -> Comparison:
    settings = load_settings(["tracking=none", "evaluate.replicates=100", *words])
    return compare.compare(find_runs([str(folder) for folder in folders], settings), settings)


def predictions(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "evaluate" / "predictions.parquet").sort("subject_id", "prediction_time")


def test_runs_of_one_configuration_are_one_line(seeds: list[Path]) -> None:
    found = compared(seeds)
    assert (found.runs, found.splits, found.examples, found.subjects) == (4, 1, 210, 210)
    rows = {row.name: row for row in found.metrics["auroc"].rows}
    assert set(rows) == {"gbm num_leaves=3", "gbm num_leaves=15"}
    frames = [predictions(folder) for folder in seeds]
    areas = [roc_auc_score(frame["label"], frame["probability"]) for frame in frames]
    losses = [log_loss(frame["label"], frame["probability"]) for frame in frames]
    for name, values in (("auroc", areas), ("log_loss", losses)):
        own = {row.name: row.value for row in found.metrics[name].rows}
        assert own["gbm num_leaves=3"] == pytest.approx(np.mean(values[:2]), abs=1e-12)
        assert own["gbm num_leaves=15"] == pytest.approx(np.mean(values[2:]), abs=1e-12)
    scores = np.stack([frame["probability"].to_numpy() for frame in frames])
    groups = group_runs(*delong(frames[0]["label"].to_numpy(), scores), np.array([0, 0, 1, 1]))
    assert groups.spread.max() > 0
    rarer = min(frames[0].group_by("label").agg(pl.col("subject_id").n_unique())["subject_id"])
    expected = compare_groups(groups, rarer, 0.95)
    assert rarer < 105
    pair = found.metrics["auroc"].pairs[0]
    assert pair.p == pytest.approx(expected.p[0, 1], rel=1e-9)
    assert found.metrics["auroc"].method == "DeLong"
    assert found.metrics["brier"].method == "paired bootstrap by subject"
    assert "prevalence" not in found.metrics  # the same for all
    # The reference is what tuning says, and tuning alone.
    tuning = {item["name"]: item["tuning"] for item in found.configurations}
    assert found.reference == min(tuning, key=lambda name: tuning[name])


def test_p_is_corrected_and_letters_agree(seeds: list[Path], made: Made) -> None:
    weak = made(MANY, "model.booster.n_estimators=2")
    strong = made(MANY)
    found = compared([*seeds, weak, strong])
    assert found.comparisons == 6
    table = found.metrics["log_loss"]
    raw = sorted(pair.p for pair in table.pairs if pair.p is not None)
    holm = sorted(pair.p_corrected for pair in table.pairs if pair.p_corrected is not None)
    assert holm[0] == pytest.approx(min(6 * raw[0], 1))
    letters = {row.name: set(row.letters or "") for row in table.rows}
    for pair in table.pairs:
        assert bool(letters[pair.one] & letters[pair.other]) is not pair.apart
    worst = table.rows[-1].name
    assert "n_estimators=2" in worst
    assert any(pair.apart for pair in table.pairs if worst in (pair.one, pair.other))
    planned = compared([*seeds, weak, strong], "compare.pairs=reference", "compare.correction=none")
    assert planned.comparisons == 3
    assert planned.metrics["log_loss"].rows[0].letters is None
    assert all(pair.p == pair.p_corrected for pair in planned.metrics["log_loss"].pairs)
    best = compared([*seeds, weak], "compare.reference=best")
    assert best.reference == best.metrics["auroc"].rows[0].name
    assert "n_estimators=2" in compared([*seeds, weak], f"compare.reference={weak.name}").reference
    with pytest.raises(RunError, match="reference=nobody is none of the configurations"):
        compared([*seeds, weak], "compare.reference=nobody")


def test_folds_are_compared_by_what_is_known_within_each_and_what_they_differ_by(made: Made) -> None:
    folds = [[made(leaves, "split.folds=3", f"split.fold={fold}") for fold in range(3)] for leaves in (FEW, MANY)]
    found = compared([*folds[0], *folds[1]])
    assert (found.splits, found.examples, found.runs) == (3, 700, 6)
    values = np.array(
        [[roc_auc_score(*predictions(folder).select("label", "probability")) for folder in own] for own in folds]
    )
    difference = values[0] - values[1]
    counts = json.loads((folds[0][0] / "train" / "manifest.json").read_text())["splits"]
    assert counts["held_out"]["samples"] in (233, 234)
    sampling = []
    for one, other in zip(*folds, strict=True):
        frames = [predictions(folder) for folder in (one, other)]
        assert frames[0]["subject_id"].equals(frames[1]["subject_id"])
        covariance = delong(frames[0]["label"], np.stack([frame["probability"] for frame in frames])).covariance
        sampling.append(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    within = sum(sampling) / 9
    # Trainings that share subjects differ by less than others would: (1 / 3 + 1 / 2) instead of 1 / 3.
    beyond = max(difference.var(ddof=1) - np.mean(sampling), 0) * (1 / 3 + 1 / 2)
    freedom = (within + beyond) ** 2 / (within**2 / 699 + beyond**2 / 2)
    p = 2 * stats.t.sf(abs(difference.mean()) / np.sqrt(within + beyond), freedom)
    table = found.metrics["auroc"]
    assert table.method == "DeLong within 3 sets, and what the sets differ by beyond that"
    assert table.pairs[0].p == pytest.approx(p, rel=0.01)  # folds differ by one subject
    assert abs(table.pairs[0].difference or 0) == pytest.approx(abs(difference.mean()), abs=1e-12)
    assert found.metrics["brier"].pairs[0].p is not None
    assert found.metrics["ece"].pairs[0].p is None
    assert found.metrics["ece"].rows[0].value is not None
    with pytest.raises(RunError, match=r"not scored on the same held-out examples .* keeps the folds that all"):
        compared([*folds[0], *folds[1][:2]])
    common = compared([*folds[0], *folds[1][:2]], "compare.examples=common")
    assert (common.splits, common.runs_left_out) == (2, 1)


def test_other_examples_are_refused_or_left_out(seeds: list[Path], made: Made) -> None:
    other = made(FEW, "split.seed=5", "model.booster.n_estimators=30")
    with pytest.raises(RunError, match=r"not scored on the same held-out examples \(210 examples: .*compare.examples="):
        compared([seeds[0], other])
    found = compared([seeds[0], other], "compare.examples=common")
    common = set(predictions(seeds[0])["subject_id"]) & set(predictions(other)["subject_id"])
    assert found.examples == len(common)
    assert found.left_out == 420 - 2 * len(common)
    with pytest.raises(RunError, match=r"these 2 runs are one configuration \(gbm\)"):
        compared(seeds[:2])


def test_other_labels_and_unscored_runs_are_refused(seeds: list[Path], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(seeds[2], changed)
    path = changed / "evaluate" / "predictions.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.Series("label", [not frame["label"][0], *frame["label"][1:]])).write_parquet(path)
    with pytest.raises(RunError, match=r"have different labels for 1 of 210 examples"):
        compared([seeds[0], changed])
    shutil.rmtree(changed / "evaluate")
    with pytest.raises(RunError, match="has no predictions; score it first: ehrseq evaluate run="):
        compared([seeds[0], changed])


def test_outcomes_come_back_from_what_evaluate_wrote(seeds: list[Path]) -> None:
    scored = read_scored(find_runs([str(seeds[0])], load_settings())[0])
    assert outcomes_of(scored.target, scored.frame)[:, 0].tolist() == scored.frame["label"].cast(pl.Float64).to_list()


def test_the_report_is_whole_and_tracked(seeds: list[Path], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare_and_tell(["experiment=seeds", "output=report", "evaluate.replicates=100"], None)
    told = capsys.readouterr().out
    for words in ("held_out/auroc", "gbm num_leaves=15", "reference", "looked at with", "share a letter"):
        assert words in told
    folder = place / "report" / "compare"
    plain = json.loads((folder / JSON).read_text())
    assert plain["reference"] in told
    assert len(plain["configurations"]) == 2
    assert (folder / FIGURE).stat().st_size > 5000
    page = (folder / HTML).read_text()
    assert "<table>" in page
    assert "data:image/png;base64," in page
    assert "## log_loss" in (folder / MARKDOWN).read_text()
    # MLflow has no predictions of single histories: where the run folders are not at hand, that is told.
    settings = load_settings(["evaluate.replicates=100", "paths.runs=elsewhere"])
    ids = [json.loads((run / "tracking" / "run.json").read_text())["run_id"] for run in seeds]
    with pytest.raises(RunError, match=r"evaluate\.individuals=true"):
        compare.compare(find_runs(ids, settings), settings)


@pytest.mark.usefixtures("seeds")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name runs"),
        (["experiment=nothing"], "has no such experiment"),
        (["sweep=nothing"], "sweep=nothing: no finished runs"),
        (["x", "y"], "run=x: no such folder"),
        (["x", "model=gru"], "model=gru: only compare, evaluate"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str) -> None:
    with pytest.raises((ConfigError, RunError), match=message):
        compare_and_tell(words, None)


def test_a_sweep_is_found_by_tag_and_by_folder(seeds: list[Path], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number, folder in enumerate((seeds[0], seeds[2])):
        shutil.copytree(folder, runs / folder.name)
        where = runs / folder.name / ("sweep.json" if number else "tracking/sweep.json")
        where.write_text(json.dumps({"ehrseq.sweep": "abc"}))
    settings = load_settings(["tracking=none", f"paths.runs={runs}"])
    assert {run.folder.name for run in find_runs(["sweep=abc"], settings)} == {seeds[0].name, seeds[2].name}
    from mlflow.tracking import MlflowClient

    from ehrseq.tracking.search import list_runs

    ids = [json.loads((run / "tracking" / "run.json").read_text())["run_id"] for run in seeds]
    uri = load_settings().tracking.uri
    for run_id in ids[:3]:
        MlflowClient(tracking_uri=uri).set_tag(run_id, "ehrseq.sweep", "xyz")
    assert [run.run_id for run in list_runs(uri, sweep="xyz")] == ids[:3]


def test_looks_are_counted_and_tuning_is_chosen_on(made: Made, place: Path) -> None:
    words = (*SMALL, "split.seed=9", "paths.data=looked", "paths.runs=looks", "evaluate.split=tuning")
    folders = [made(leaves, *words, f"seed={seed}", SAMPLED) for leaves in (FEW, MANY) for seed in (1, 2)]
    assert list(ledgers(place / "looked")) == []  # tuning is there to be looked at
    settings = load_settings(["tracking=none", "paths.data=looked", "paths.runs=looks", "evaluate.replicates=20"])
    chosen = choose.run(settings, [str(folder) for folder in folders])
    (choice,) = chosen.choices
    tuning = [json.loads((folder / "train" / "manifest.json").read_text())["score"] for folder in folders]
    best = 0 if np.mean(tuning[:2]) <= np.mean(tuning[2:]) else 1
    assert [path.name for path in choice.runs] == [folder.name for folder in folders[2 * best : 2 * best + 2]]
    assert choice.candidates == 2
    scored = [predictions(folder) for folder in folders[2 * best : 2 * best + 2]]
    areas = [roc_auc_score(frame["label"], frame["probability"]) for frame in scored]
    assert chosen.value == pytest.approx(np.mean(areas), abs=1e-12)
    (ledger,) = ledgers(place / "looked")
    assert (len(ledger.looks), ledger.configurations) == (2, 1)
    choose.run(settings, [str(folder) for folder in folders])  # the same models again
    (ledger,) = ledgers(place / "looked")
    assert ledger.tell() == "these held_out examples have been looked at with 2 trained models of 1 configuration"
    assert not any(str(subject) in ledger.path.read_text() for subject in scored[0]["subject_id"])
    ledger.path.write_text(ledger.path.read_text() + "{}\n")
    with pytest.raises(EhrseqError, match="line 3 is not a look"):
        list(ledgers(place / "looked"))


def test_nested_choice_is_made_in_each_fold(made: Made) -> None:
    words = (*SMALL, "split=nested", "split.folds=2", "split.inner_folds=2", "evaluate.split=tuning")
    folders = [
        made(leaves, *words, f"split.fold={fold}", f"split.inner_fold={inner}", "paths.runs=nested")
        for leaves in (FEW, MANY)
        for fold in (0, 1)
        for inner in (0, 1)
    ]
    settings = load_settings(["tracking=none", "evaluate.replicates=0", "paths.runs=nested"])
    chosen = choose.run(settings, [str(folder) for folder in folders])
    assert [choice.where for choice in chosen.choices] == ["fold 0, split seed 0", "fold 1, split seed 0"]
    assert all(len(choice.runs) == 2 for choice in chosen.choices)
    assert chosen.value == pytest.approx(np.mean([choice.metrics[chosen.headline] for choice in chosen.choices]))
    assert chosen.ci_low is not None
    assert chosen.ci_low < chosen.value


# Reproduction


@pytest.fixture(scope="module")
def labelled(place: Path, made: Made) -> tuple[Path, Path]:
    """A run whose labels are a file of its own; the file."""
    data = prepare.run(load_settings([*TREES, *SMALL, "paths.data=data_of_labels"])).dataset
    (source,) = data.glob("labels/in_hospital_mortality/*.parquet")
    labels = place / "labels.parquet"
    shutil.copy(source, labels)
    words = (*SMALL, "task=labels", "task.name=death", "task.target.kind=binary", f"task.labels.path={labels}")
    return made(FEW, *words, tracking="tracking=sqlite"), labels


def repeat(folder: Path | str, *words: str) -> reproduce.Reproduced:
    own = [word for word in words if word.startswith(("output=", "paths.", "force=", "reproduce."))]
    settings: Settings = load_settings(own)
    return reproduce.run(settings, str(folder), [word for word in words if word not in own])


def test_a_run_comes_out_equal_in_another_folder(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = labelled
    result = repeat(folder, f"output={tmp_path / 'again'}")
    assert result.verdict == "equal"
    assert result.differences == ()
    run = next((tmp_path / "again" / "runs").iterdir())
    assert predictions(run).equals(predictions(folder))
    assert (run / "train" / "trees.txt").read_bytes() == (folder / "train" / "trees.txt").read_bytes()
    with pytest.raises(RunError, match="holds a repetition already; force=true"):
        repeat(folder, f"output={tmp_path / 'again'}")
    # From the MLflow run id alone, where the run folder is not at hand.
    run_id = json.loads((folder / "tracking" / "run.json").read_text())["run_id"]
    by_id = repeat(run_id, f"output={tmp_path / 'by_id'}", "paths.runs=nowhere")
    assert (by_id.verdict, by_id.differences) == ("equal", ())
    assert "identical by their digest" in by_id.results[1]


def test_a_changed_label_file_is_named(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    folder, labels = labelled
    before = labels.read_bytes()
    frame = pl.read_parquet(labels)
    flipped = pl.Series("boolean_value", [not frame["boolean_value"][0], *frame["boolean_value"][1:]])
    frame.with_columns(flipped).write_parquet(labels)
    try:
        result = repeat(folder, f"output={tmp_path / 'again'}")
    finally:
        labels.write_bytes(before)
    named = [str(item) for item in result.differences]
    assert any(line.startswith(f"labels of task.labels.path={labels}: ") for line in named)
    assert any(line.startswith("labels labels (sample_label.npy): ") for line in named)
    assert result.verdict == "different"


def test_a_changed_seed_is_named(
    labelled: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run's own file, and on the command line; the exit code says what the last line does."""
    folder, _ = labelled
    changed = tmp_path / folder.name
    shutil.copytree(folder, changed)
    config = changed / "train" / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 1\n", "\nseed: 3\n"))
    code = reproduce_and_tell([str(changed), "seed=7", f"output={tmp_path / 'again'}"], None)
    told = capsys.readouterr().out
    assert "seed in train/config.yaml: 1 then, 3 now" in told
    assert "seed: 3 then, 7 now" in told
    assert "file train/config.yaml: " in told
    assert code == {"EQUAL": 0, "WITHIN TOLERANCE": 3, "DIFFERENT": 4}[told.splitlines()[-1].split(":")[0]]
    with pytest.raises(ConfigError, match=r"the run has no key 'sed'; did you mean 'seed'\?"):
        repeat(folder, "sed=3", f"output={tmp_path / 'misspelt'}")


def test_a_changed_package_is_named_and_small_differences_are_within_tolerance(
    labelled: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version that comes first on the path is what would be imported."""
    folder, _ = labelled
    moved = tmp_path / folder.name
    shutil.copytree(folder, moved)
    path = moved / "evaluate" / "predictions.parquet"
    pl.read_parquet(path).with_columns(pl.col("probability") + 1e-7).write_parquet(path)
    for name in ("numpy", "nobody_needs_this"):
        facts = tmp_path / "packages" / f"{name}-0.0.1.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    result = repeat(moved, f"output={tmp_path / 'again'}")
    (named,) = result.differences
    assert str(named) == f"package numpy: {np.__version__} then, 0.0.1 now"
    assert result.verdict == "within tolerance"
    assert "largest difference 1e-07" in result.results[1]
