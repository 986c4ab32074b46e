"""Models in MLflow's registry: weights as they lie in the run, no pickle, with signature and input example."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ehrseq import __version__
from ehrseq.meds import schema

if TYPE_CHECKING:
    import pandas as pd

# The module whose `_load_pyfunc` opens a model.
LOADER = "ehrseq.workflows.serving"
_ARTIFACT = "model"


def register_model(
    client: MlflowClient,
    run_id: str,
    name: str,
    folder: Path,
    given: Mapping[str, Sequence[Any]],
    told: Mapping[str, Sequence[Any]],
) -> str:
    """Log a model with a run and make it the next version of a registered one.

    Args:
        client: Connected client.
        run_id: The run.
        name: Of the registered model; made where missing.
        folder: `train/` of the run.
        given: An example of the input, as columns; times may be text.
        told: An example of the output, likewise.

    Returns:
        The version.
    """
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import infer_signature

    example, answer = (_with_times(pd.DataFrame(dict(columns))) for columns in (given, told))
    # Hints on whole numbers: subject identifiers are never missing.
    with TemporaryDirectory(prefix="ehrseq-model-") as temporary, warnings.catch_warnings(action="ignore"):
        model = Path(temporary) / _ARTIFACT
        pyfunc.save_model(
            str(model),
            loader_module=LOADER,
            data_path=str(folder),
            signature=infer_signature(example, answer),
            input_example=example,
            pip_requirements=[f"ehrseq=={__version__}"],
        )
        client.log_artifacts(run_id, str(model), _ARTIFACT)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(name, f"runs:/{run_id}/{_ARTIFACT}", run_id).version)


def _with_times(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Times as such, which were text while they waited to be sent."""
    import pandas as pd

    times = [name for name in (schema.TIME, schema.PREDICTION_TIME) if name in frame]
    return frame.assign(**{name: pd.to_datetime(frame[name]) for name in times})
