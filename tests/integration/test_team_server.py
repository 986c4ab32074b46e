"""A team's server: users with passwords, runs in PostgreSQL where there is one, files in an S3 store."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow.server import get_app_client
from mlflow.tracking import MlflowClient

from ehrseq.config.schema import Tracking
from ehrseq.tracking import RunTracker, reason
from servers import Server, mlflow_server

Command = Callable[..., Any]
PASSWORD = {"admin": "of-the-admin-7kQ2", "researcher": "of-the-researcher-Xw9", "colleague": "of-the-colleague-p4T"}
WRONG = "mistyped-password-Zz1"
# An S3 store asks for keys, whatever they are.
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAFORTESTSALONE", "AWS_SECRET_ACCESS_KEY": "secret-of-the-store-Hh3"}
SECRETS = (*PASSWORD.values(), WRONG, KEYS["AWS_SECRET_ACCESS_KEY"])
BUCKET = "team"


class Team(NamedTuple):
    """What a team has: MLflow, the S3 store behind it, and a client of that."""

    uri: str
    s3: str
    store: Any

    def files(self) -> dict[str, bytes]:
        """Everything in the bucket."""
        listed = self.store.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {item["Key"]: self.store.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read() for item in listed}


def sign_in(monkeypatch: pytest.MonkeyPatch, user: str | None, password: str | None = None) -> None:
    """Be somebody, as people are: by the environment."""
    for name, value in (("USERNAME", user), ("PASSWORD", password or PASSWORD.get(user or ""))):
        if value is None:
            monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
        else:
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Team]:
    pytest.importorskip("moto", reason="no S3 server here (extra dev)")
    pytest.importorskip("flask_wtf", reason="no mlflow[auth] here (extra dev)")
    import boto3

    folder = tmp_path_factory.mktemp("team")
    try:
        store = request.getfixturevalue("new_database")()
    except pytest.skip.Exception:
        store = f"sqlite:///{folder / 'server.db'}"
    # Users live beside the runs, as docs/tracking.md has it.
    config = folder / "auth.ini"
    lines = ("[mlflow]", "default_permission = READ", f"database_uri = {store}", "admin_username = admin")
    config.write_text("\n".join([*lines, "auth_cache_ttl_seconds = 60"]))
    with Server(sys.executable, "-m", "moto.server", "-p", "{port}", folder=folder, answers="/moto-api/") as s3:
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=s3.uri, **keys)
        client.create_bucket(Bucket=BUCKET)
        secrets = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD["admin"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only-for-tests",
            "MLFLOW_S3_ENDPOINT_URL": s3.uri,
        }
        words = ("--app-name", "basic-auth")
        with mlflow_server(
            store, f"s3://{BUCKET}/proxied", *words, folder=folder, environment=secrets | KEYS
        ) as server:
            with pytest.MonkeyPatch.context() as admin:
                sign_in(admin, "admin")
                users = get_app_client("basic-auth", tracking_uri=server.uri)
                for name in ("researcher", "colleague"):
                    users.create_user(name, PASSWORD[name])
            yield Team(server.uri, s3.uri, client)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of one's own, without anybody's credentials."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in (*KEYS, "AWS_PROFILE", "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    sign_in(monkeypatch, None)
    return folder


def record(folder: Path, team: Team, experiment: str) -> tuple[RunTracker, list[str]]:
    """A run of three epochs with a file, and what was said of the server."""
    warnings: list[str] = []
    config = Tracking(enabled=True, uri=team.uri, experiment=experiment, registry=None)
    tracker = RunTracker(folder, config, "run", warnings.append)
    tracker.start(fresh=True)
    tracker.params({"seed": 1})
    for epoch in (1, 2, 3):
        tracker.metrics({"loss": 1 / epoch}, epoch)
    figure = folder / "figure.txt"
    figure.write_text(f"figure of {experiment}")
    tracker.artifacts({"evaluate/figure.txt": figure})
    tracker.finish("FINISHED")
    return tracker, warnings


def check_complete(team: Team, experiment: str, files: str) -> None:
    """Everything of `record` is there, once."""
    client = MlflowClient(tracking_uri=team.uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (run,) = client.search_runs([found.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "1"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(item.step, item.value) for item in history] == [(epoch, 1 / epoch) for epoch in (1, 2, 3)]
    stored = {name: content for name, content in team.files().items() if run.info.run_id in name}
    assert list(stored.values()) == [f"figure of {experiment}".encode()]
    assert next(iter(stored)).startswith(files)


@pytest.mark.parametrize(
    ("password", "said"),
    [(None, "it asks for a user and a password: set MLFLOW_TRACKING_USERNAME"), (WRONG, "it refuses this user")],
    ids=["missing", "wrong"],
)
def test_what_a_password_kept_back_is_sent_with_the_right_one(
    password: str | None, said: str, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = "wrong" if password else "missing"
    sign_in(monkeypatch, "researcher" if password else None, password)
    tracker, warnings = record(tmp_path, team, experiment)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"MLflow at {team.uri} did not take everything ({said}")
    assert "`ehrseq tracking sync` sends it" in warnings[0]
    assert "\n" not in warnings[0]
    assert not tracker.is_sent
    assert tracker.run_id is None
    sign_in(monkeypatch, "researcher")
    tracker.sync()
    check_complete(team, experiment, "proxied")


def test_credentials_may_stand_in_mlflows_file(team: Team, tmp_path: Path, home: Path) -> None:
    (home / ".mlflow").mkdir()
    lines = ("[mlflow]", "mlflow_tracking_username = researcher")
    (home / ".mlflow" / "credentials").write_text(
        "\n".join([*lines, f"mlflow_tracking_password = {PASSWORD['researcher']}"])
    )
    assert record(tmp_path, team, "file")[1] == []
    check_complete(team, "file", "proxied")


def test_what_a_user_may_not_do_is_told(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in(monkeypatch, "researcher")
    MlflowClient(tracking_uri=team.uri).create_experiment("of the researcher")
    sign_in(monkeypatch, "colleague")
    (warning,) = record(tmp_path, team, "of the researcher")[1]
    assert "this user may not do that there; who manages the experiment can allow it" in warning


def test_files_go_to_s3_without_the_server_in_between(
    team: Team, tmp_path: Path, ehrseq: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, "researcher")
    MlflowClient(tracking_uri=team.uri).create_experiment("direct", artifact_location=f"s3://{BUCKET}/direct")
    sign_in(monkeypatch, None)
    record(tmp_path / "runs" / "one", team, "direct")
    sign_in(monkeypatch, "researcher")
    # Each in a process of its own, as clients of S3 are kept.
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", team.s3)
    without = ehrseq("tracking", "sync", cwd=tmp_path)
    assert without.returncode == 1
    assert "its files lie in S3 (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in without.stderr
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    done = ehrseq("tracking", "sync", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1 runs sent\n"), done.stderr
    check_complete(team, "direct", "direct")
    needed = reason(ModuleNotFoundError("No module named 'boto3'", name="boto3"))
    assert needed == "its store needs boto3: pip install 'ehrseq[s3]'"


def test_a_training_goes_on_and_no_password_is_written_anywhere(
    team: Team, tmp_path: Path, ehrseq: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(monkeypatch, "researcher", WRONG)
    server = ("tracking=server", f"tracking.uri={team.uri}", "tracking.experiment=whole")
    small = ("source.n_subjects=300", "trainer.max_epochs=1", "trainer.accelerator=cpu", "explain=none")
    words = ("train", *server, *small, "evaluate.replicates=0", "evaluate.figures=false", "tracking.registry=mortality")
    trained = ehrseq(*words, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "held_out/auroc" in trained.stdout
    told = [line for line in trained.stderr.splitlines() if team.uri in line]
    assert len(told) == 1
    assert "it refuses this user or password" in told[0]
    refused = [ehrseq(*command, *server, cwd=tmp_path) for command in (("ui",), ("compare", "experiment=whole"))]
    for done in refused:
        assert done.returncode == 1
        assert "it refuses this user or password" in done.stderr
        assert "Traceback" not in done.stderr

    sign_in(monkeypatch, "researcher")
    sent = ehrseq("tracking", "sync", cwd=tmp_path)
    assert (sent.returncode, sent.stdout) == (0, "1 runs sent\n"), sent.stderr
    pages = ehrseq("ui", *server, cwd=tmp_path)
    assert pages.stdout.startswith(f"whole: {team.uri}/#/experiments/")

    said = [text for done in (trained, *refused, sent, pages) for text in (done.stdout, done.stderr)]
    written = [path.read_bytes().decode("latin-1") for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    stored = [name + content.decode("latin-1") for name, content in team.files().items()]
    client = MlflowClient(tracking_uri=team.uri)
    experiment = client.get_experiment_by_name("whole")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["tracking.uri"] == team.uri
    told_mlflow = [str(run.to_dictionary()), str(experiment.tags)]
    assert len(written) > 20
    assert any("train/model.safetensors" in text for text in stored)
    for text in (*said, *written, *stored, *told_mlflow):
        assert not any(secret in text for secret in SECRETS)
