"""Addresses of stores, which are kept with every run and therefore hold no secret."""

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator


def _without_secret(address: str) -> str:
    """Refuse a password; the message does not repeat it."""
    try:
        parts = urlsplit(address)
        secret = parts.password or any("password" in name.lower() for name, _ in parse_qsl(parts.query))
    except ValueError as error:  # such as brackets that are not closed
        raise ValueError("no address that can be read") from error
    if secret:
        raise ValueError(
            "holds a password, which would be kept with the run; leave it out: MLflow's belongs into "
            "MLFLOW_TRACKING_PASSWORD or ~/.mlflow/credentials, PostgreSQL's into PGPASSWORD or ~/.pgpass"
        )
    return address


Address = Annotated[str, AfterValidator(_without_secret)]
