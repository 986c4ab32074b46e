"""Tracking: the only place that knows MLflow."""

from ehrseq.tracking.link import RunLink
from ehrseq.tracking.reason import reason
from ehrseq.tracking.spool import Spool
from ehrseq.tracking.tracker import Dataset, RunTracker, describe_run_id

__all__ = ["Dataset", "RunLink", "RunTracker", "Spool", "describe_run_id", "reason"]
