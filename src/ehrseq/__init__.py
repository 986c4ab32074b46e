"""ehrseq: config-driven experiments on clinical event sequences."""

__version__ = "0.1.0"
