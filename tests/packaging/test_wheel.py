"""What is shipped."""

import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import ehrseq

REPOSITORY = Path(__file__).parent.parent.parent


def test_wheel_holds_the_configuration_and_finds_it(tmp_path: Path) -> None:
    words = ["pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    shipped = {f"ehrseq/conf/{path.relative_to(REPOSITORY / 'conf')}" for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert shipped <= names
    assert {"ehrseq/py.typed", "hydra_plugins/ehrseq_sweeper/sweeper.py"} <= names
    if platform.machine() == "x86_64" and shutil.which("cc"):
        assert {f"ehrseq/nn/kernels/recurrence_{name}.so" for name in ("avx2", "avx512")} <= names
    # Other plugins of Hydra live in the same namespace, which must stay open to them.
    assert "hydra_plugins/__init__.py" not in names
    assert not any(name.startswith(("tests/", "conf/", "benchmarks/")) for name in names)
    script = (
        "import ehrseq; from ehrseq.config.load import conf_dir, load_settings; load_settings(); print(conf_dir());"
    )
    script += (
        "from hydra.core.plugins import Plugins; from hydra.plugins.sweeper import Sweeper; "
        "assert 'EhrseqSweeper' in [found.__name__ for found in Plugins.instance().discover(Sweeper)]"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == tmp_path / "site" / "ehrseq" / "conf"


def test_version_is_said_once() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == ehrseq.__version__


def test_malicious_uploads_are_excluded() -> None:
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    (lightning,) = [line for line in dependencies if line.startswith("pytorch-lightning")]
    assert "!=2.6.2" in lightning
    assert "!=2.6.3" in lightning
