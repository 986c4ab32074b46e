"""Sending to MLflow what it has not got, because it was away when it was told."""

from pathlib import Path

from ehrseq.config.schema import Settings, Tracking
from ehrseq.errors import RunError
from ehrseq.tracking import RunTracker, describe_run_id, reason
from ehrseq.workflows.console import say
from ehrseq.workflows.stages import RESULTS


def run(settings: Settings) -> int:
    """Send what is left of every run folder in `paths.runs`, and of DVC's; each to the store that it was meant for.

    Returns:
        How many runs were behind.

    Raises:
        RunError: If some of it could not be sent; it is kept.
    """
    sent, failed = 0, []
    folders = [*sorted(Path(settings.paths.runs).glob("*")), RESULTS]
    for folder in folders:
        state = describe_run_id(folder)
        if not state or "uri" not in state:
            continue
        config = Tracking(enabled=True, uri=state["uri"], experiment=state["experiment"], registry=None)
        tracker = RunTracker(folder, config, state.get("name", folder.name), say)
        if tracker.is_sent:
            continue
        try:
            tracker.sync()
        except Exception as error:
            failed.append(f"{folder}: {state['uri']}: {reason(error)}")
            continue
        sent += 1
        say(f"sync: {folder} sent to {state['uri']}, run {tracker.run_id}")
    if failed:
        raise RunError("\n".join([f"{len(failed)} runs could not be sent, and are kept:", *failed]))
    return sent
