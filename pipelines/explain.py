"""DVC stage `explain`: see `dvc.yaml`."""

import sys

from ehrseq.errors import EhrseqError
from ehrseq.workflows.stages import explain_stage

try:
    explain_stage()
except EhrseqError as error:
    sys.exit(f"error: {error}")
