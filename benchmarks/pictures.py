"""Make the pictures of the documentation anew: two runs on PhysioNet 2012, shown in a real browser by `tests/browser`.

    python benchmarks/pictures.py [set-a.tar.gz]

needs Chromium and a few minutes; without the file it shows synthetic data.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PICTURES = ("mlflow_experiment", "mlflow_run", "mlflow_figure", "mlflow_comparison", "report")
_COLORS = 256  # screenshots have few


def main() -> None:
    source = sys.argv[1:2]
    words = ["experiment=physionet2012", f"source.path={Path(source[0]).resolve()}"] if source else []
    with TemporaryDirectory() as folder:
        for model in (["model=lstm"], ["model=gru", "explain=none"]):
            subprocess.run([BIN / "ehrseq", "train", *words, *model], cwd=folder, check=True)
        make_pictures(Path(folder))


def make_pictures(shown: Path) -> None:
    """Show the runs of a working folder, and keep what the documentation has."""
    from PIL import Image

    with TemporaryDirectory() as taken:
        places = {"EHRSEQ_SHOWN": str(shown), "EHRSEQ_SCREENSHOTS": taken}
        tests = [sys.executable, "-m", "pytest", "-q", "tests/browser"]
        subprocess.run(tests, cwd=REPOSITORY, env=os.environ | places, check=True)
        for name in PICTURES:
            smaller = Path(taken) / f"{name}_smaller.png"
            Image.open(Path(taken) / f"{name}.png").convert("RGB").quantize(_COLORS).save(smaller, optimize=True)
            shutil.copyfile(smaller, REPOSITORY / "docs" / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
