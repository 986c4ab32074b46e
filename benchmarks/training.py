"""What an epoch of training costs, as a ratio to a bare loop over the same batches that lie ready in memory.

    python benchmarks/training.py --path set-a.tar.gz

`ehrseq` trains as `ehrseq train` does: Lightning, MLflow on SQLite, metrics, checkpoints, progress lines, all on. After
each of its epochs the bare loop has one: `nn.LSTM` or `nn.GRU`, a linear head, Adam, and the tuning split scored
without gradients. The network is the same: values and masks in, the last hidden state out. Figures are medians over
epochs, by the clock and by processor time, which a busy host does not touch.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from epochs import Span, Stopwatch, timed_epochs
from machine import machine_facts
from torch import Tensor, nn
from torch.nn import functional

from ehrseq.config.load import load_settings
from ehrseq.data import HistoryDataset, represent
from ehrseq.data.batch import GridBatch
from ehrseq.files import write_json
from ehrseq.workflows import experiment, prepare

RESULTS = Path(__file__).parent / "results"
PLAIN = [
    *("model.embedding.features=[value,observed]", "model.embedding.projection=null", "model.embedding.statics=none"),
    *("model.embedding.input_dropout=0", "model.embedding.dropout=0", "model.summary=null", "model.next_values=null"),
    *("model.hidden_dropout=0", "model/pooling=last", "model.head.dropout=0", "explain=none"),
    *("optim=adam", "optim.weight_averaging=null", "trainer.gradient_clip=null", "trainer.patience=null"),
    *("trainer.progress=false", "evaluate.replicates=0"),
]


class Bare(nn.Module):
    """The plain network."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU], features: int, size: int) -> None:
        super().__init__()
        self.rnn = cell(features, size, batch_first=True)
        self.head = nn.Linear(size, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B,)."""
        hidden = self.rnn(x)[0]
        logits: Tensor = self.head(hidden[torch.arange(len(x)), lengths - 1]).squeeze(1)
        return logits


def bare_epoch(words: list[str], cell: type[nn.LSTM | nn.GRU], size: int, device: torch.device) -> Callable[[], Span]:
    """What one epoch takes over batches that are ready on the device."""
    settings = load_settings(words)
    store = prepare.run(settings).open()
    representation = represent(store, settings.representation)
    parts = {split: HistoryDataset(representation, store.samples(split), 4.0) for split in ("train", "tuning")}

    def ready(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(batch, GridBatch)
        x = torch.cat([batch.values, batch.observed], dim=-1)
        return x.to(device), batch.lengths.to(device), batch.targets[:, 0].to(device)

    batches = [ready(batch) for batch in parts["train"].shuffled(settings.loader, seed=settings.seed)]
    tuning = [ready(batch) for batch in parts["tuning"].ordered(settings.loader)]
    net = Bare(cell, batches[0][0].shape[2], size).to(device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def epoch() -> Span:
        watch = Stopwatch()
        net.train()
        for x, lengths, outcome in batches:
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(net(x, lengths), outcome)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        net.eval()
        with torch.no_grad():
            for x, lengths, outcome in tuning:
                functional.binary_cross_entropy_with_logits(net(x, lengths), outcome)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return watch.read()

    return epoch


def compare(words: list[str], model: str, size: int, epochs: int, device: torch.device) -> dict[str, Any]:
    """Both in turns; the first two epochs of each warm up."""
    cell = {"lstm": nn.LSTM, "gru": nn.GRU}[model]
    with TemporaryDirectory() as folder:
        place = [f"paths.runs={folder}/runs", f"tracking.uri=sqlite:///{folder}/mlflow.db", f"paths.data={folder}/data"]
        words = [*PLAIN, *words, *place, f"model={model}", f"model.encoder.hidden_size={size}"]
        bare = bare_epoch(words, cell, size, device)
        other: list[Span] = []
        with timed_epochs(between=lambda: other.append(bare())) as own:
            experiment.run(load_settings([*words, f"trainer.max_epochs={epochs + 2}"]))
    pairs = list(zip(own, other, strict=True))[2:]
    wall, cpu = [(ours.wall, bare.wall) for ours, bare in pairs], [(ours.cpu, bare.cpu) for ours, bare in pairs]
    return {"model": model, "hidden_size": size, "epochs": epochs, "wall": ratio(wall), "processor": ratio(cpu)}


def ratio(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Of seconds of an epoch of ours and of the bare loop after it."""
    ours, bare = (median(side) for side in zip(*pairs, strict=True))
    quartiles = np.quantile([one / other for one, other in pairs], [0.25, 0.5, 0.75])
    return {
        "ehrseq_seconds": ours,
        "bare_seconds": bare,
        "ratio_of_medians": ours / bare,
        "ratio_quartiles": quartiles.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="PhysioNet 2012, set A; the synthetic source without it")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sizes", default="64")
    parser.add_argument("words", nargs="*", help="settings for both")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = ["source=physionet2012", f"source.path={options.path.resolve()}"] if options.path else []
    rows: list[Mapping[str, Any]] = []
    for size in map(int, options.sizes.split(",")):
        for model in ("lstm", "gru"):
            rows.append(compare([*source, *options.words], model, size, options.epochs, device))
            print(rows[-1], flush=True)
    facts = machine_facts(device)
    write_json(RESULTS / f"training_{device.type}.json", {**facts, "epoch": rows})


if __name__ == "__main__":
    main()
