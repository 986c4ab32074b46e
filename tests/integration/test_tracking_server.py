"""A tracking server that dies in the middle of a training: nothing stops, and nothing is lost."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from servers import mlflow_server

Command = Callable[..., "subprocess.CompletedProcess[str]"]
EHRSEQ = Path(sys.executable).parent / "ehrseq"
EPOCHS = 4


@pytest.mark.parametrize("store", ["postgres", "sqlite"])
def test_a_training_outlives_its_server_and_sync_sends_the_rest(
    store: str, tmp_path: Path, ehrseq: Command, request: pytest.FixtureRequest
) -> None:
    # SQLite serves where there is no PostgreSQL.
    try:
        uri = request.getfixturevalue("postgres")
    except pytest.skip.Exception:
        uri = f"sqlite:///{tmp_path / 'server.db'}"
    if store == "sqlite" and uri.startswith("postgres"):
        pytest.skip("proved on PostgreSQL")
    server = mlflow_server(uri, tmp_path / "files", folder=tmp_path)
    server.start()
    try:
        words: tuple[str, ...] = (
            "source.n_subjects=600",
            f"trainer.max_epochs={EPOCHS}",
            "trainer.accelerator=cpu",
        )
        words += ("explain=none",)
        words += (f"tracking.uri={server.uri}", "tracking.experiment=dying", "evaluate.replicates=20")
        command = [str(EHRSEQ), "train", *words, "trainer.patience=null"]
        training = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert training.stderr is not None
        for line in training.stderr:
            if line.startswith("epoch   2/"):
                server.kill()
                break
        out, said = training.communicate(timeout=300)
        assert training.returncode == 0, said
        assert "held_out/auroc" in out
        assert "did not take everything" in said
        assert "`ehrseq tracking sync` sends it" in said

        refused = ehrseq("tracking", "sync", cwd=tmp_path)
        assert refused.returncode == 1
        assert "1 runs could not be sent, and are kept" in refused.stderr
        server.start()
        sent = ehrseq("tracking", "sync", cwd=tmp_path)
        assert (sent.returncode, sent.stdout) == (0, "1 runs sent\n"), sent.stderr

        client = MlflowClient(tracking_uri=server.uri)
        experiment = client.get_experiment_by_name("dying")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        for name in ("train/loss", "tuning/auroc", "lr", "epoch_seconds"):
            history = client.get_metric_history(run.info.run_id, name)
            assert [item.step for item in history] == list(range(1, EPOCHS + 1)), name
        assert "held_out/auroc" in run.data.metrics
        assert run.data.params["loader.batch_size"] == "64"
        assert run.data.tags["ehrseq.weights_digest"]
        assert "held_out/auroc" in run.data.tags["mlflow.note.content"]
        names = {
            item.path for folder in ("train", "evaluate") for item in client.list_artifacts(run.info.run_id, folder)
        }
        assert {"train/model.safetensors", "evaluate/roc.png", "evaluate/metrics_table.json"} <= names
        assert run.inputs is not None
        assert len(run.inputs.dataset_inputs) == 3

        again = ehrseq("tracking", "sync", cwd=tmp_path)
        assert (again.returncode, again.stdout) == (0, "MLflow has everything\n")
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == EPOCHS
    finally:
        server.kill()
