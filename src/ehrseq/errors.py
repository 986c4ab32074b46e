"""Every error a user can cause, each with the exit code its kind deserves.

A message says what is wrong, where (file, row, column, config key) and what to do about it. The CLI prints it as one
block without a traceback; `--debug` shows the traceback too.
"""

from difflib import get_close_matches


class EhrseqError(Exception):
    """Base of all errors that a user can cause and mend.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code = 1


class ConfigError(EhrseqError):
    """A configuration that cannot be composed or does not fit the schema."""

    exit_code = 2


class DataError(EhrseqError):
    """Input data that is missing, unreadable or breaks its contract."""


class RunError(EhrseqError):
    """A run folder or tracked run that is missing, incomplete or does not fit what is asked of it."""


class TrainingError(EhrseqError):
    """A training that cannot start or go on."""


class TooLittleMemoryError(TrainingError):
    """A training that the memory does not hold."""


class Pruned(EhrseqError):  # noqa: N818 - not an error, but what ends a training
    """A training that was stopped because others of its sweep do better; not a mistake."""


class InterruptedBySignalError(EhrseqError):
    """A signal ended the work; what is done is saved.

    Args:
        number: Of the signal.
        message: What is saved, and how to go on.
    """

    def __init__(self, number: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, numpy's, or torch's on the processor or a GPU."""
    words = ("can't allocate memory", "out of memory")
    return isinstance(error, (MemoryError, TooLittleMemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def suggest(word: str, known: list[str]) -> str:
    """The tail of a message about an unknown word: the likely intended one, or all that exist.

    >>> suggest("hiden_size", ["hidden_size", "dropout"])
    "did you mean 'hidden_size'?"
    >>> suggest("x", ["b", "a"])
    'known: a, b'
    """
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
