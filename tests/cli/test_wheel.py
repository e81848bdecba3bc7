"""The wheel: complete, nothing else in it, and it runs away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import CHECKOUT

pytestmark = [
    pytest.mark.slow,  # builds in an environment of its own: needs the package index
    pytest.mark.xdist_group("wheel"),  # built once
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(CHECKOUT, tmp_path_factory.mktemp("wheel"))


def built(source: Path, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def contents(wheel: Path) -> dict[str, int]:
    return {file.filename: file.CRC for file in zipfile.ZipFile(wheel).infolist()}


def test_the_wheel_holds_code_and_configuration_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {
        path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "rotograd_cli").rglob("*.py")
    }
    conf = {
        f"rotograd_cli/{path.relative_to(CHECKOUT).as_posix()}"
        for path in (CHECKOUT / "conf").rglob("*.yaml")
    }
    assert {"rotograd_cli/conf/train.yaml", "rotograd_cli/conf/method/rotograd.yaml"} <= conf
    rest = {name for name in names if ".dist-info/" not in name}
    lists = {"rotograd_cli/datasets/nyuv2/validation.txt"}
    page = {f"rotograd_cli/report/page.{suffix}" for suffix in ("html", "css", "js")}
    types = {"rotograd_cli/py.typed", "rotograd_cli/__init__.pyi"}
    assert rest == code | conf | lists | page | types
    metadata = {name.rpartition("/")[2] for name in names - rest}
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "LICENSE"} == metadata


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--sdist", "--outdir", str(tmp_path), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    assert contents(built(archive, tmp_path)) == contents(wheel)


def test_the_installed_wheel_trains_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True)
    # -P: the working directory is not searched; PYTHONPATH comes before an editable install
    python = [sys.executable, "-P"]
    env = {**os.environ, "PYTHONPATH": str(target)}

    def run(*words: str) -> str:
        result = subprocess.run(
            [*python, *words], cwd=elsewhere, env=env, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    code = "import rotograd_cli.config.files as c; print(c.__file__); print(c.config_dir())"
    module, conf = run("-c", code).splitlines()
    assert Path(module).is_relative_to(target)
    assert Path(conf) == target / "rotograd_cli" / "conf"
    code = "import rotograd_cli.data.nyuv2.layout as c; print(len(c.validation_frames()))"
    assert run("-c", code) == "80\n"
    out = run("-m", "rotograd_cli", "train", "debug=smoke", "hydra.run.dir=run")
    assert "Run directory: run" in out
    assert "equal the run's record exactly" in run("-m", "rotograd_cli", "evaluate", "run=run")
    assert "rotogradnorm" in run("-m", "rotograd_cli", "train", "--help")
    assert "report.html" in run("-m", "rotograd_cli", "report", "run=run")
    assert "Vanilla" in run("-m", "rotograd_cli", "reproduce", "table=multimnist", "plan=true")
    assert '"commit"' not in (elsewhere / "run" / "summary.json").read_text()
