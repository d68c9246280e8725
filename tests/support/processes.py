"""Modules of the tests as processes of their own, one or several under torch's launcher."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support import ROOT


def run_module(
    module: str, *arguments: object, processes: int = 1, timeout: float = 3600
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` from the checkout, on CPUs when there are several processes; fails as it fails."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    # accelerate needs to be told to let processes without a GPU talk to each other
    several = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if processes > 1 else {}
    command = [sys.executable, *launcher, "-m", module, *map(str, arguments)]
    environment = {**os.environ, **several}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done
