"""Why MLflow, or the store of its files, did not take something: one line that says what to do."""

import os
from pathlib import Path

_LONGEST = 300
_PASSWORD = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials"
_EXTRAS = {"boto3": "s3", "psycopg": "postgres"}


def reason(error: BaseException) -> str:
    """What went wrong, for people; MLflow is not imported for it."""
    status = _status(error)
    words = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
    if status == 401:
        if not _is_named():
            return f"it asks for a user and a password: set {_PASSWORD}"
        return f"it refuses this user or password: look at {_PASSWORD}"
    if status == 403:
        return f"this user may not do that there; who manages the experiment can allow it: {words}"
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"its store needs {error.name}: pip install 'ehrseq[{_EXTRAS[error.name]}]'"
    if type(error).__module__.partition(".")[0] in {"boto3", "botocore"}:
        return f"its files lie in S3 (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_S3_ENDPOINT_URL): {words}"
    return words


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error of MLflow or of requests, where there is one."""
    if hasattr(error, "get_http_status_code"):
        return int(error.get_http_status_code())
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_named() -> bool:
    """Whether anything says who asks; MLflow looks at the same places."""
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")
    return any(os.environ.get(name) for name in names) or Path("~/.mlflow/credentials").expanduser().is_file()
