"""Which of several processes this one is, as torchrun and our own launcher say in the environment; and the others."""

import os

import torch
from torch import distributed


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """How many processes train together; 1 where nobody launched several."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_group(accelerator: str) -> None:
    """Meet the others, once.

    Args:
        accelerator: `gpu`, `cpu` or `auto`: over what the gradients will travel.
    """
    if ranks() == 1 or distributed.is_initialized():
        return
    if accelerator != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")


def wait_for_others() -> None:
    """Go on when all processes are here; at once where there is one only."""
    if distributed.is_initialized():
        # On the CPU, whatever else the group can do.
        distributed.all_reduce(torch.zeros(1))
