"""Freed memory is kept: a second tensor of the same size costs no pages."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from mrt.cli.allocator import keep_freed_memory

kept = "keep" in sys.argv and keep_freed_memory()
[np.ones(2**20) for _ in range(16)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [np.ones(2**20) for _ in range(16)]
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments: str, **variables: str) -> tuple[int, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return int(kept), int(count)


def test_what_is_freed_is_used_again():
    kept, count = faults("keep")
    if not kept:
        pytest.skip("not glibc: nothing is changed there")
    assert 5 * count < faults()[1]


def test_an_environment_that_chooses_is_left_alone():
    assert faults("keep", MALLOC_ARENA_MAX="2")[0] == 0
