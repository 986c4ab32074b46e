"""Starting MLflow's own UI."""

import sys
from pathlib import Path

from ehrseq.errors import RunError


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
    return [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
