"""Preparing under bad circumstances: killed at any moment, eight at once, by many processes, on a full disk; and proof
afterwards."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrseq.config.load import load_settings
from ehrseq.errors import EhrseqError
from ehrseq.files import digest_file
from ehrseq.preprocess.tensorise import tensorise_shard
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_label_maker

EHRSEQ = Path(sys.executable).parent / "ehrseq"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MEDS dataset of twelve shards."""
    made = prepare.run(
        load_settings(["source.n_subjects=3000", f"paths.data={tmp_path_factory.mktemp('made')}"])
    ).dataset
    target = tmp_path_factory.mktemp("meds")
    shutil.copytree(made / "metadata", target / "metadata")
    shutil.copytree(made / "labels", target / "labels")
    (target / "data").mkdir()
    events = pl.read_parquet(made / "data" / "*.parquet")
    for shard in range(12):
        part = events.filter(pl.col("subject_id") % 12 == shard)
        part.write_parquet(target / "data" / f"{shard:02d}.parquet")
    return target


def words(dataset: Path, data: Path, *more: str) -> list[str]:
    return ["source=meds", f"source.path={dataset}", f"paths.data={data}", *more]


def bytes_of(store: Path) -> dict[str, str]:
    return {path.name: digest_file(path) for path in sorted(store.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return bytes_of(prepare.run(load_settings(words(dataset, tmp_path_factory.mktemp("whole")))).store)


def test_processes_write_the_same_bytes(dataset: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    prepared = prepare.run(load_settings(words(dataset, tmp_path, "engine.workers=3")))
    assert bytes_of(prepared.store) == undisturbed


def test_a_ray_cluster_writes_the_same_bytes(dataset: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    command = [str(EHRSEQ), "prepare", *words(dataset, tmp_path, "engine.kind=ray")]
    subprocess.run(command, check=True, capture_output=True)
    (store,) = tmp_path.glob("stores/*")
    assert bytes_of(store) == undisturbed


@pytest.mark.slow
def test_killed_at_any_moment_then_again(dataset: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    command = [str(EHRSEQ), "prepare", *words(dataset, tmp_path)]
    chance = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Until it begins to write, then a moment more.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not list(tmp_path.glob("stores/.*")):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(path.name.startswith(".") or bytes_of(path) == undisturbed for path in tmp_path.glob("stores/*"))
    subprocess.run(command, check=True, capture_output=True)
    (store,) = tmp_path.glob("stores/*")  # nothing of the killed ones is left beside it
    assert bytes_of(store) == undisturbed


def test_finished_shards_are_not_done_again(
    dataset: Path, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tensorise_shard
    done: list[Path] = []

    def breaks(path: Path, *rest: object) -> None:
        if len(done) == 5:
            raise OSError(28, "No space left on device")
        done.append(path)
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("ehrseq.preprocess.pipeline.tensorise_shard", breaks)
    with pytest.raises(EhrseqError, match="No space left on device"):
        prepare.run(load_settings(words(dataset, tmp_path)))
    assert not list(tmp_path.glob("stores/[!.]*"))
    first, done = list(done), []

    def counts(path: Path, *rest: object) -> None:
        done.append(path)
        real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("ehrseq.preprocess.pipeline.tensorise_shard", counts)
    prepared = prepare.run(load_settings(words(dataset, tmp_path)))
    assert sorted(first + done) == sorted((dataset / "data").iterdir())
    assert bytes_of(prepared.store) == undisturbed


@pytest.mark.slow
def test_eight_at_once_make_one_store(dataset: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    command = [str(EHRSEQ), "prepare", *words(dataset, tmp_path)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0] * 8
    (store,) = tmp_path.glob("stores/*")
    assert bytes_of(store) == undisturbed
    assert sum("tensorised" in text for text in said) == 1


def test_verify_proves_and_finds(dataset: Path, tmp_path: Path) -> None:
    prepared = prepare.run(load_settings(words(dataset, tmp_path)))
    command = [str(EHRSEQ), "store", "verify", f"paths.data={tmp_path}"]
    sound = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sound.stdout == "1 datasets and stores are what was written\n"
    event = prepared.store / "event.npy"
    with event.open("r+b") as file:
        file.seek(event.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    (prepared.store / "static.npy").unlink()
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert "event.npy is not what was written: its digest differs" in broken.stdout
    assert "static.npy is missing" in broken.stdout
    assert broken.stderr.startswith("error: 2 faults in 1 folders")


def test_every_sample_holds_its_own_subjects_events(tmp_path: Path) -> None:
    """Subjects of static events alone, without any, and sparse ones between: nobody is served another's events."""
    from ehrseq.config.representation import EventsConfig, GridConfig, TimepointsConfig
    from ehrseq.data import EventBatch, GridBatch, TimepointBatch, represent
    from ehrseq.meds import write

    meds = tmp_path / "meds"
    (meds / "data").mkdir(parents=True)
    (meds / "labels" / "task").mkdir(parents=True)
    start = np.datetime64("2020-01-01", "us")
    rows: list[tuple[int, datetime | None, str, float]] = []
    for subject in range(60):
        rows.append((subject, None, "AGE", float(subject)))
        if subject % 4 in (1, 2):
            continue  # two in a row with static events only
        # The value says whose event it is.
        rows += [
            (subject, (start + np.timedelta64(hour, "h")).item(), f"LAB{hour % 2}", float(subject))
            for hour in range(subject % 5 + 1)
        ]
    frame = pl.DataFrame(
        rows,
        schema={"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32},
        orient="row",
    )
    for shard, part in enumerate(frame.filter(pl.col("subject_id") % 2 == odd) for odd in (1, 0)):
        write.write_events(part, meds / "data" / f"{shard}.parquet")
    labels = pl.DataFrame(
        {
            "subject_id": range(60),
            "prediction_time": [(start + np.timedelta64(9, "h")).item()] * 60,
            "boolean_value": [i % 3 == 0 for i in range(60)],
        },
        schema_overrides={"prediction_time": pl.Datetime("us")},
    )
    write.write_labels(labels, meds / "labels" / "task" / "0.parquet")
    settings = load_settings(
        [
            *words(meds, tmp_path / "data"),
            "task.name=task",
            "preprocess.normaliser=none",
            "preprocess.clip=null",
            "preprocess.log=none",
            "preprocess.min_subjects=2",
        ]
    )
    store = prepare.run(settings).open()
    samples = np.random.default_rng(0).permutation(60)
    who = store.subjects_of(samples)
    counts = [0 if subject % 4 in (1, 2) else subject % 5 + 1 for subject in who]
    age = store.statics.index("AGE (value)")
    for config in (
        EventsConfig(name="events", max_steps=99),
        TimepointsConfig(name="timepoints", max_steps=99),
        GridConfig(name="grid", bin_hours=1, max_steps=99, aggregate="last", max_features=None),
    ):
        batch = represent(store, config).cut(samples)
        assert batch.statics[:, age].tolist() == who.tolist()
        for row, (subject, count) in enumerate(zip(who, counts, strict=True)):
            if isinstance(batch, EventBatch):
                assert batch.values[row][batch.has_value[row]].tolist() == [subject] * count
            elif isinstance(batch, TimepointBatch):
                first = batch.first_event[row, 0]
                last = (
                    batch.first_event.flatten()[(row + 1) * batch.steps] if row + 1 < len(batch) else len(batch.codes)
                )
                assert batch.values[first:last].tolist() == [subject] * count
            else:
                assert isinstance(batch, GridBatch)
                assert batch.observed[row].sum() == count
                assert set(batch.values[row][batch.observed[row] > 0].tolist()) <= {float(subject)}


def test_mimic_demo_trains_a_readmission_model(test_data: Path, tmp_path: Path) -> None:
    source = [f"source.path={test_data / 'mimic-iv-demo-meds'}", "source=meds", "task=readmission_30d"]
    done = subprocess.run(
        [
            str(EHRSEQ),
            "train",
            *source,
            "split.method=source",
            "representation=timepoints",
            "trainer.max_epochs=1",
            "tracking=none",
            "explain=none",
            "evaluate.figures=false",
            "evaluate.replicates=50",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "held_out/auroc" in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    predictions = pl.read_parquet(run / "evaluate" / "predictions.parquet")
    assert predictions.height == 50
    manifest = json.loads(next((tmp_path / ".ehrseq" / "stores").glob("*/manifest.json")).read_text())
    assert manifest["attrition"][0] == ["start events", 275]


def test_other_arguments_of_a_task_make_another_store_and_other_places_of_its_files_do_not(tmp_path: Path) -> None:
    base = ["source.n_subjects=200", f"paths.data={tmp_path / 'data'}"]
    dataset = prepare.run(load_settings(base)).dataset
    meds = ["source=meds", f"source.path={dataset}", f"paths.data={tmp_path / 'data'}", "split.stratify=false"]
    window = [*meds, "task=long_stay", "task.labels.start=ICU_ADMISSION", "task.labels.end=ICU_DISCHARGE"]
    settings = [load_settings([*window, f"task.labels.delay_hours={hours}"]) for hours in (2, 3)]
    makers = [build_label_maker(each.task).fingerprint() for each in settings]
    assert makers[0] != makers[1]
    labels = next((dataset / "labels").rglob("*.parquet"))
    stores = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        copy = shutil.copy(labels, tmp_path / name / "labels.parquet")
        words = [*meds, "task=labels", "task.name=copied", f"task.labels.path={copy}"]
        stores.append(prepare.run(load_settings(words)).store)
    assert stores[0] == stores[1]
