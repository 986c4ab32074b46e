"""One of the processes that `ehrseq.workflows.launch` starts."""

import signal
import sys
import traceback
from pathlib import Path

from ehrseq.config.load import read_settings
from ehrseq.errors import EhrseqError
from ehrseq.files import write_json
from ehrseq.workflows import experiment
from ehrseq.workflows.console import is_first
from ehrseq.workflows.launch import RESULT


def main(folder: Path) -> int:
    """Take part in the experiment of `settings.yaml`; the first process writes `result.json`.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    first = is_first()
    try:
        result = experiment.run(read_settings(folder / "settings.yaml"))
    except EhrseqError as error:
        if first:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        # Of a group in which another process died; the launcher says so.
        if "onnection" not in str(error):
            traceback.print_exc()
        return 1
    if first:
        write_json(folder / RESULT, {"folder": str(result.folder), "run_id": result.run_id})
    return 0


if __name__ == "__main__":
    try:
        code = main(Path(sys.argv[1]))
    finally:
        # It leaves as it is; asked to leave while Python tidies up, it would only fail at that, with a traceback.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)
