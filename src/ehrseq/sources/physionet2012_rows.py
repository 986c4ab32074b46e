"""The slow, exact reading of one PhysioNet 2012 stay file, used only to name the row that is wrong."""

import math
import re

from ehrseq.errors import DataError

_COLUMNS = ("Time", "Parameter", "Value")


def check_rows(name: str, record: int, data: bytes) -> None:
    """Go through a stay file row by row.

    Args:
        name: The file, for the message.
        record: The RecordID in the file's name.
        data: The file's bytes.

    Raises:
        DataError: Naming the first row that does not fit, its column, and what it holds.
    """
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, row {row}: byte {data[error.start]:#04x} is not UTF-8; is the file damaged?"
        ) from error
    while lines and not lines[-1]:
        lines.pop()
    for row, line in enumerate(lines[1:], start=2):
        _check_row(f"{name} (stay {record}), row {row}", line)


def _check_row(where: str, line: str) -> None:
    cells = line.split(",")
    if len(cells) != len(_COLUMNS):
        raise DataError(
            f"{where}: expected {len(_COLUMNS)} cells ({','.join(_COLUMNS)}), found {len(cells)}: {line[:60]!r}"
        )
    time, parameter, value = cells
    if not re.fullmatch(r"\d{1,4}:[0-5]\d", time):
        raise DataError(f"{where}, column Time: {time!r} is not hours:minutes since admission")
    if not parameter.isascii():
        raise DataError(f"{where}, column Parameter: {parameter!r} is not plain ASCII")
    try:
        number = float(value)
    except ValueError as error:
        raise DataError(f"{where}, column Value: {value!r} ({parameter}) is not a number") from error
    if not math.isfinite(number):
        raise DataError(f"{where}, column Value: {value!r} ({parameter}) is not a finite number")
