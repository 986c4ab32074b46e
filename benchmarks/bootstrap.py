"""The bootstrap by subject beside a naive loop, in one run: 1,000 replicates of 40,000 predictions.

    python benchmarks/bootstrap.py

The loop gathers the predictions of each sample and asks scikit-learn for each metric; it is timed on fewer replicates,
since each takes as long as the other. Seconds are of one core (processor time). Both get the same samples, and their
figures must be equal.
"""

import json
from pathlib import Path
from time import process_time

import numpy as np
from sklearn import metrics as reference

from ehrseq.metrics import ece
from ehrseq.metrics.intervals import METRICS, Draws, Ranked, evaluate_binary
from ehrseq.metrics.logistic import sigmoid

PREDICTIONS, REPLICATES, LOOPED = 40_000, 1000, 50
RESULT = Path(__file__).parent / "results" / "bootstrap.json"


def main() -> None:
    random = np.random.default_rng(0)
    facts: dict[str, object] = {"predictions": PREDICTIONS, "replicates": REPLICATES, "looped_replicates": LOOPED}
    for name, subjects in (("one a subject", PREDICTIONS), ("forty a subject", PREDICTIONS // 40)):
        subject = np.arange(PREDICTIONS) % subjects
        risk = sigmoid(random.normal(-2, 1, PREDICTIONS))
        label = (random.random(PREDICTIONS) < risk).astype(np.float64)
        started = process_time()
        evaluate_binary(label, risk, subject, replicates=REPLICATES, seed=0)
        vectorised = process_time() - started

        ranked = Ranked(label, risk)
        drawn = next(iter(Draws(subject, LOOPED, 0)))
        samples = np.concatenate(list(Draws(subject, LOOPED, 0))).astype(int)
        fast = ranked.metrics(drawn)
        started = process_time()
        for number, sample in enumerate(samples):
            place = np.repeat(np.arange(PREDICTIONS), sample)
            own, told = label[place], risk[place]
            slow = {
                "auroc": reference.roc_auc_score(own, told),
                "auprc": reference.average_precision_score(own, told),
                "brier": reference.brier_score_loss(own, told),
                "log_loss": reference.log_loss(own, told),
                "prevalence": own.mean(),
            }
            ece(own, told)
            if number < len(drawn):
                for metric, value in slow.items():
                    assert abs(fast[metric][number] - value) < 1e-9, metric
        naive = (process_time() - started) * REPLICATES / LOOPED
        facts[name] = {
            "vectorised_seconds": round(vectorised, 2),
            "naive_seconds": round(naive, 1),
            "times_faster": round(naive / vectorised, 1),
            "metrics": METRICS,
        }
        print(name, facts[name])
    RESULT.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
