"""Learning-rate schedules as pure functions of the step."""

import math
from collections.abc import Callable


def cosine_with_warmup(steps: int, warmup: int, decay: bool = True) -> Callable[[int], float]:
    """Factor of the learning rate: linear up to 1 over `warmup` steps, then half a cosine down to 0 (Loshchilov 2017).

    Args:
        steps: Steps of the whole training.
        warmup: Steps until the full rate is reached.
        decay: False: the rate stays at 1 after the warm-up.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if not decay:
            return 1.0
        share = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return 0.5 * (1 + math.cos(math.pi * share))

    return factor
