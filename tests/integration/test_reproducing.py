"""A network is made again with as many threads as it was trained with, and comes out the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ehrseq.config.load import load_settings
from ehrseq.files import read_json
from ehrseq.workflows import experiment, reproduce

QUICK = (
    *("source.n_subjects=400", "trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.progress=false"),
    *("explain=none", "tracking=none", "evaluate.replicates=0", "evaluate.figures=false"),
)


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_a_network_comes_out_equal_where_torch_has_other_threads(tmp_path: Path) -> None:
    """With another number the last digits of weights are others on most machines, which is why it is kept."""
    torch.set_num_threads(1)
    words = (*QUICK, f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}")
    folder = experiment.run(load_settings(words)).folder
    assert read_json(folder / "train" / "environment.json")["threads"] == 1
    torch.set_num_threads(2)
    result = reproduce.run(load_settings([f"output={tmp_path / 'again'}"]), str(folder))
    assert result.verdict == "equal"
    repeated = next((tmp_path / "again" / "runs").iterdir())
    weights = [(run / "train" / "model.safetensors").read_bytes() for run in (folder, repeated)]
    assert weights[0] == weights[1]
