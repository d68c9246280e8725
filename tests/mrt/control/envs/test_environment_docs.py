"""docs/environments.md: every block runs as it stands, in order, in one folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

pytest.importorskip("gymnasium", reason="the extra [control] is not installed")

BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w.]+\.(?:py|yaml))\n")


def test_every_block_of_the_page_runs(root: Path, tmp_path: Path) -> None:
    blocks = BLOCK.findall((root / "docs" / "environments.md").read_text(encoding="utf-8"))
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"}
    programs, commands = [], []
    for kind, text in blocks:
        named = NAMED.match(text)
        if named:
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
        elif kind == "python":
            programs.append(text)
        elif kind == "bash":
            commands += [shlex.split(line) for line in text.splitlines()]
    assert len(programs) >= 5
    assert len(commands) == 3
    assert all(command.pop(0) == "mrt" for command in commands)
    for command in (["-c", "\n".join(programs)], *(["-m", "mrt", *command] for command in commands)):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    for run in ("pendulum", "thermostat"):
        assert (tmp_path / "runs" / run / "model" / "config.json").is_file()
