"""ehrseq: config-driven experiments on clinical event sequences."""

import os

__version__ = "0.1.0"

# Threads of OpenMP spin while they wait, which on a busy machine takes the core from the very thread they wait for: an
# epoch then takes up to 30 times as long (2 cores, one of them busy). Read when torch is loaded, so set before that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
