"""Finding runs in MLflow by the experiment or the sweep that they belong to."""

from dataclasses import dataclass
from pathlib import Path

from ehrseq.errors import RunError
from ehrseq.tracking.link import SWEEP
from ehrseq.tracking.reason import reason

_FOLDER = "ehrseq.run_folder"
_PAGE = 500


@dataclass(frozen=True)
class Listed:
    """A run that MLflow knows.

    Attributes:
        run_id: Its id.
        status: FINISHED, FAILED, ...
        folder: Its run folder, as it was called where it was made.
    """

    run_id: str
    status: str
    folder: str


def list_runs(uri: str, *, experiment: str | None = None, sweep: str | None = None) -> list[Listed]:
    """The runs of an experiment, or of a sweep, in the order in which they began; parents of sweeps are left out.

    Args:
        uri: Tracking URI.
        experiment: Name of an MLflow experiment.
        sweep: Value of the tag `ehrseq.sweep`.

    Raises:
        RunError: If MLflow has no such experiment, or cannot be asked.
    """
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise RunError(
            f"there is no {uri} here (config key tracking.uri): nothing was tracked, name run folders instead"
        )
    # It sets what MLflow has to know before it is imported.
    import ehrseq.tracking.client  # noqa: F401, I001
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        everything = {item.name: item.experiment_id for item in client.search_experiments()}
        if experiment is not None and experiment not in everything:
            known = ", ".join(sorted(everything))
            raise RunError(f"experiment={experiment}: {uri} has no such experiment; it has {known}")
        places = [everything[experiment]] if experiment is not None else list(everything.values())
        query = f"tags.`{SWEEP}` = '{sweep}'" if sweep is not None else ""
        found, token = [], None
        while True:
            page = client.search_runs(places, query, max_results=_PAGE, order_by=["start_time"], page_token=token)
            found += list(page)
            token = page.token
            if not token:
                break
    except MlflowException as error:
        raise RunError(f"{uri} (config key tracking.uri) cannot be asked: {reason(error)}") from error
    return [
        Listed(run.info.run_id, run.info.status, run.data.tags[_FOLDER]) for run in found if _FOLDER in run.data.tags
    ]
