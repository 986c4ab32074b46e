"""What the figures of a benchmark were measured on."""

import platform
from typing import Any

import torch


def machine_facts(device: torch.device) -> dict[str, Any]:
    """The device's name, how many threads torch takes, and its version."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}
