"""Where the time of an epoch goes."""

import re
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from pytorch_lightning.profilers import Profiler

_EPOCH = "run_training_epoch"
# Names of Lightning's actions; what is none of these counts as what it happens in.
_PHASES = [
    ("data", r"train_dataloader_next$"),
    ("transfer", r"batch_to_device$|on_before_batch_transfer$|on_after_batch_transfer$"),
    ("forward", r"\[Strategy\].*\.training_step$"),
    ("backward", r"\[Strategy\].*\.backward$"),
    ("optimiser", r"optimizer_step$|optimizer_zero_grad$|configure_gradient_clipping$"),
    ("tuning", r"val_next$|validation_step$|on_validation_(model|start|epoch_start|batch)"),
    ("logging", r"\[Callback\]|save_checkpoint$|on_validation_epoch_end$"),
    ("rest", rf"^{_EPOCH}$"),
]
PHASES = tuple(name for name, _ in _PHASES)


class Unprofiled(Profiler):
    """Measures nothing. Lightning enters a profiler at some fifty places a step; this is its cheapest entrance."""

    _NOTHING = nullcontext()

    def start(self, action_name: str) -> None:
        """Not called."""

    def stop(self, action_name: str) -> None:
        """Not called."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # noqa: ARG002
        """One context for all."""
        return self._NOTHING


class PhaseProfiler(Profiler):
    """Shares the time of each training epoch out to its phases; every moment counts once.

    On a GPU the device is waited for at each border, so that work is counted where it was asked for; the epoch itself
    takes longer by that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[dict[str, float]] = []
        self._stack: list[str] = []
        self._since = 0.0
        self._known: dict[str, str | None] = {}

    def start(self, action_name: str) -> None:
        """Enter an action."""
        if action_name == _EPOCH:
            self.seconds.append(dict.fromkeys(PHASES, 0.0))
        elif not self._stack:
            return
        self._count()
        if action_name not in self._known:
            phases = (phase for phase, pattern in _PHASES if re.search(pattern, action_name))
            self._known[action_name] = next(phases, None)
        self._stack.append(self._known[action_name] or self._stack[-1])

    def stop(self, action_name: str) -> None:  # noqa: ARG002
        """Leave an action."""
        if self._stack:
            self._count()
            self._stack.pop()

    def _count(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._stack:
            self.seconds[-1][self._stack[-1]] += now - self._since
        self._since = now

    def table(self, steps: int) -> list[str]:
        """Lines that say where the time went: phase, milliseconds a step, share.

        Args:
            steps: Of an epoch.
        """
        # The first epoch warms up: memory is asked for, code is loaded, what is kept is cut.
        epochs = self.seconds[1:] or self.seconds
        total = {phase: sum(epoch.get(phase, 0.0) for epoch in epochs) for phase in PHASES}
        whole = sum(total.values())
        where = "epochs from the second on" if len(self.seconds) > 1 else "one epoch"
        lines = [f"profile: {where}, {whole / max(len(epochs), 1):.2f} s each, {steps} steps"]
        for phase in PHASES:
            milliseconds = 1000 * total[phase] / max(len(epochs) * steps, 1)
            lines.append(f"  {phase:<10} {milliseconds:>9.2f} ms a step  {total[phase] / max(whole, 1e-9):>6.1%}")
        return lines
