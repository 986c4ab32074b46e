"""The MEDS 0.4 contract: names of columns, folders and files, and the pinned types on disk."""

import polars as pl
import pyarrow as pa

MEDS_VERSION = "0.4.1"

DATA, METADATA, LABELS = "data", "metadata", "labels"
CODES_FILE = "metadata/codes.parquet"
DATASET_FILE = "metadata/dataset.json"
SPLITS_FILE = "metadata/subject_splits.parquet"

SUBJECT_ID, TIME, CODE, NUMERIC_VALUE = "subject_id", "time", "code", "numeric_value"
TEXT_VALUE = "text_value"
PREDICTION_TIME, BOOLEAN_VALUE = "prediction_time", "boolean_value"
INTEGER_VALUE, FLOAT_VALUE, CATEGORICAL_VALUE = "integer_value", "float_value", "categorical_value"

UPGRADE_HINT = (
    "write it anew with a current release of its extraction, or rename and cast as "
    "https://medical-event-data-standard.github.io says for 0.4"
)

TRAIN, TUNING, HELD_OUT = "train", "tuning", "held_out"

EVENT_SCHEMA = pa.schema(
    [
        pa.field(SUBJECT_ID, pa.int64(), nullable=False),
        pa.field(TIME, pa.timestamp("us")),
        pa.field(CODE, pa.string(), nullable=False),
        pa.field(NUMERIC_VALUE, pa.float32()),
    ]
)
LABEL_SCHEMA = pa.schema(
    [
        pa.field(SUBJECT_ID, pa.int64(), nullable=False),
        pa.field(PREDICTION_TIME, pa.timestamp("us"), nullable=False),
        pa.field(BOOLEAN_VALUE, pa.bool_(), nullable=False),
        pa.field(FLOAT_VALUE, pa.float32(), nullable=False),
    ]
)

# What our sources know of a code beyond MEDS: plausible limits, and unit mix-ups that are mended.
_REPAIR = pl.Struct(dict.fromkeys(("low", "high", "scale", "offset"), pl.Float64))
CODE_COLUMNS: dict[str, pl.DataType] = {
    "unit": pl.String(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "repairs": pl.List(_REPAIR),
}
