"""The wheel by itself: built, installed in a bare environment outside the checkout, and used from there."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.training

# What the checkout would lend to it: the tests are about what the wheel has of its own.
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
}


def call(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)], out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel, and sees the dependencies of this one by a path file."""
    folder = tmp_path_factory.mktemp("bare")
    call([sys.executable, "-m", "venv", str(folder / "venv")], folder)
    bin_folder = folder / "venv" / "bin"
    call([str(bin_folder / "python"), "-m", "pip", "install", "--no-index", "--no-deps", str(wheel)], folder)
    own = Path(
        call(
            [str(bin_folder / "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder
        ).strip()
    )
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_folder


def mrt(bare: Path, cwd: Path, *arguments: str) -> dict[str, Any]:
    return json.loads(call([str(bare / "mrt"), *arguments, "--json"], cwd))


def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"mrt", "classic_metarl"}
    assert {"mrt/py.typed", "mrt/_packaged/recipes/accelerate/cpu.yaml"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_checkout_is_not_used(bare: Path, tmp_path: Path) -> None:
    code = "import mrt, mrt.runs.recipe; print(mrt.__file__); print(mrt.runs.recipe.recipe_folder())"
    for line in call([str(bare / "python"), "-c", code], tmp_path).split():
        assert Path(line).is_relative_to(bare.parent)


def test_doctor(bare: Path, tmp_path: Path) -> None:
    answer = mrt(bare, tmp_path, "doctor")
    assert answer["ok"]
    assert {"torch", "trl", "[vllm]"} <= {check["name"] for check in answer["checks"]}


def test_two_steps_of_training(bare: Path, tmp_path: Path) -> None:
    answer = mrt(bare, tmp_path, "train", "countdown/warmstart", "args.max_steps=2", "output_dir=run")
    assert (answer["status"], answer["steps"]) == ("trained", 2)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    again = mrt(bare, tmp_path, "train", "countdown/warmstart", "args.max_steps=2", "output_dir=run")
    assert again["status"] == "already finished"
