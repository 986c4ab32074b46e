"""Attention tables and pictures."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ehrseq.config.load import load_settings
from ehrseq.data import HistoryDataset, represent
from ehrseq.errors import RunError
from ehrseq.explain.attention import attention_table, choose_histories, cohort_attention
from ehrseq.explain.figures import draw_heat_map
from ehrseq.store import Store
from ehrseq.training.inference import predictions
from ehrseq.workflows import prepare
from ehrseq.workflows.build import build_model

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = tmp_path_factory.mktemp("data")
    return prepare.run(load_settings(["source.n_subjects=400", f"paths.data={data}"])).open()


def table_of(store: Store, *words: str) -> pl.DataFrame:
    settings = load_settings(words)
    torch.manual_seed(0)
    model = build_model(settings.model, settings.task.target, settings.loss, len(store.codes), len(store.statics))
    dataset = HistoryDataset(represent(store, settings.representation), store.samples("held_out"))
    outputs = predictions(model, dataset.ordered(settings.loader), torch.device("cpu"))
    return attention_table(outputs, store, model.objective.risk)


@pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
def test_table_sums_to_one_and_ends_at_prediction(store: Store, pooling: str) -> None:
    table = table_of(store, f"model/pooling={pooling}")
    assert table["sample"].unique().sort().to_list() == store.samples("held_out").tolist()
    for (sample,), rows in table.group_by(["sample"]):
        assert rows["attention"].sum() == pytest.approx(1, abs=1e-5)
        assert rows["step"].to_list() == list(range(rows.height))
        assert rows["hours_before"].to_list() == list(range(rows.height - 1, -1, -1))
        assert rows["subject_id"].unique().to_list() == store.subjects_of(np.array([sample])).tolist()


def test_pooling_without_weights_is_refused(store: Store) -> None:
    with pytest.raises(RunError, match="pooling gives no weights to show"):
        table_of(store, "model/pooling=max")


def test_small_groups_are_left_out(store: Store) -> None:
    table = table_of(store)
    cohort = cohort_attention(table, 1.0, groups=4, smallest=11)
    assert cohort["histories"].min() >= 11  # type: ignore[operator]
    assert set(cohort["risk_group"]) == {1, 2, 3, 4}
    cell = cohort.row(0, named=True)
    order = table.group_by("sample").agg(pl.col("risk").first()).sort("risk", "sample")["sample"].to_list()
    lowest = order[: len(order) // 4]
    expected = table.filter(pl.col("sample").is_in(lowest), pl.col("hours_before") == cell["hours_before"])
    assert cell["attention"] == pytest.approx(expected["attention"].cast(pl.Float64).mean())
    assert cohort_attention(table, 1.0, groups=40).is_empty()


def test_pictures_are_pictures(store: Store, tmp_path: Path) -> None:
    table = table_of(store)
    chosen = choose_histories(table, store, 4)
    assert store.arrays.sample_label[chosen, 0].tolist() == [1, 1, 0, 0]
    draw_heat_map(cohort_attention(table, 1.0, groups=4), 1.0, tmp_path / "heat.png")
    files = list(tmp_path.glob("*.png"))
    assert len(files) == 1
    assert all(file.read_bytes().startswith(PNG) for file in files)
