"""MEDS data of any size for benchmarks: log-normal histories of many codes, in shards, made fast and seeded."""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CODES = 2_000
_DAY = 86_400_000_000
SHARD_EVENTS = 2_000_000


def make(folder: Path, events: int, mean_length: int = 500, seed: int = 0) -> int:
    """Write a MEDS dataset with labels `made`, one a subject.

    Args:
        folder: Where; made new.
        events: About how many.
        mean_length: Events a subject, on average; the spread is that of a log-normal with sigma 1.
        seed: Of everything.

    Returns:
        How many events there are.
    """
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    (folder / "labels" / "made").mkdir(parents=True)
    (folder / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": "made", "meds_version": "0.4.1"}))
    names = pa.array([f"LAB//{number:05d}//unit" for number in range(CODES)])
    done = shard = subject = 0
    while done < events:
        random = np.random.default_rng([seed, shard])
        subjects = max(min(SHARD_EVENTS, events - done) // mean_length, 1)
        lengths = np.maximum(random.lognormal(np.log(mean_length) - 0.5, 1.0, subjects), 1).astype(np.int64)
        total = int(lengths.sum())
        ids = np.arange(subject, subject + subjects)
        row = np.repeat(np.arange(subjects), lengths)
        gaps = random.exponential(0.05 * _DAY, total).astype(np.int64)
        gaps[random.random(total) < 0.5] = 0  # several results at one time
        time = np.cumsum(gaps)
        time -= np.repeat(time[np.cumsum(lengths) - lengths], lengths)
        time += np.repeat(random.integers(10_000, 15_000, subjects) * _DAY, lengths)
        # A few codes are common, most are rare.
        code = np.minimum((random.pareto(0.8, total) * 5).astype(np.int64), CODES - 1).astype(np.int32)
        value = random.normal(size=total).astype(np.float32)
        table = pa.table(
            {
                "subject_id": ids[row],
                "time": pa.array(time).cast(pa.timestamp("us")),
                "code": pa.DictionaryArray.from_arrays(code, names),
                "numeric_value": pa.array(value, mask=random.random(total) < 0.2),
            }
        ).cast(
            pa.schema(
                [
                    pa.field("subject_id", pa.int64(), nullable=False),
                    pa.field("time", pa.timestamp("us")),
                    pa.field("code", pa.string(), nullable=False),
                    pa.field("numeric_value", pa.float32()),
                ]
            )
        )
        pq.write_table(table, folder / "data" / f"{shard:05d}.parquet", compression="zstd")
        last = time[np.cumsum(lengths) - 1]
        labels = pa.table(
            {
                "subject_id": ids,
                "prediction_time": pa.array(last).cast(pa.timestamp("us")),
                "boolean_value": random.random(subjects) < 0.3,
            }
        )
        pq.write_table(labels, folder / "labels" / "made" / f"{shard:05d}.parquet")
        done, shard, subject = done + total, shard + 1, subject + subjects
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("events", type=int)
    options = parser.parse_args()
    print(f"{make(options.folder, options.events):,} events")
