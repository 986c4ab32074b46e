"""Compiles `src/ehrseq/nn/kernels/recurrence.c` when the package is built or installed, where there is a compiler."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src", "ehrseq", "nn", "kernels")
# For each instruction set, under the name that `torch.backends.cpu.get_cpu_capability` has for it: floats in a vector
# and rows in a block, so many that a block's sums fit the registers.
VARIANTS = {
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma", "-DLANES=16", "-DROWS=6"],
    "avx2": ["-mavx2", "-mfma", "-DLANES=8", "-DROWS=3"],
}


class CustomBuildHook(BuildHookInterface[Any]):
    """Puts the libraries beside their source and into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile all variants, or say why none is."""
        if self.target_name != "wheel":
            return
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if platform.machine().lower() not in {"x86_64", "amd64"} or compiler is None:
            self.app.display_warning("no C compiler for this processor: torch's own LSTM and GRU will be used")
            return
        folder = Path(self.root, FOLDER)
        for name, flags in VARIANTS.items():
            target = folder / f"recurrence_{name}.so"
            new = target.with_suffix(".new")
            command = [compiler, "-std=gnu11", "-O3", "-fopenmp", "-fPIC", "-shared", *flags]
            command += [str(folder / "recurrence.c"), "-o", str(new)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                self.app.display_warning(
                    f"{target.name} could not be compiled, torch's own nets will be used:\n{done.stderr}"
                )
                return
            new.replace(target)  # a process that has the old one open keeps it
            build_data["force_include"][str(target)] = f"ehrseq/nn/kernels/{target.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
