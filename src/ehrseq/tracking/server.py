"""Starting MLflow's own UI."""

import os
import sys
from pathlib import Path

from ehrseq.errors import RunError
from ehrseq.tracking.reason import reason
from ehrseq.tracking.view import VIEW_TAG, page_of_experiment


def has_pages(uri: str) -> bool:
    """Whether a tracking store is a server, which shows its pages itself."""
    return uri.startswith(("http://", "https://"))


def ui_command(uri: str, host: str, port: int) -> list[str]:
    """The command line of MLflow's UI on a tracking store.

    Raises:
        RunError: If nothing was tracked there yet.
    """
    database = uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).is_file():
        raise RunError(
            f"there is no {database} here yet: `ehrseq train` makes it, or name another with tracking.uri=..."
        )
    # One worker is enough for one who looks; four, the default, take four times as long to start.
    words = ["ui", "--workers", "1", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    return [sys.executable, "-m", "mlflow", *words]


def ui_environment() -> dict[str, str]:
    """The environment of the UI: nothing of what is looked at is reported to anybody, and nothing waits for jobs.

    MLflow's jobs judge language models; the processes that wait for them take most of what the UI does.
    """
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return quiet | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ


def pages(uri: str, server: str) -> dict[str, str]:
    """The address of the table of runs of each experiment that ehrseq made, by name, the last changed first.

    Args:
        uri: Tracking URI.
        server: Where MLflow's pages are.

    Raises:
        RunError: If MLflow cannot be asked.
    """
    # It sets what MLflow has to know before it is imported.
    import ehrseq.tracking.client  # noqa: F401, I001
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        found = MlflowClient(tracking_uri=uri).search_experiments(order_by=["last_update_time DESC"])
    except MlflowException as error:
        raise RunError(f"{uri} (config key tracking.uri) cannot be asked: {reason(error)}") from error
    return {item.name: page_of_experiment(server, item.experiment_id) for item in found if VIEW_TAG in item.tags}
