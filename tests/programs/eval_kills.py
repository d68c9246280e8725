"""Evaluates a model once, then again while it is killed with SIGKILL at random moments, until that is done too.

    python -m tests.programs.eval_kills MODEL FOLDER KILLS SEED

Each attempt is a fork of this process, which has everything imported. After every kill the chunks that were whole
before must still be there, byte for byte. Prints a JSON object: kills, lost (chunks that went missing), and whether
samples and results are those of the run that nobody disturbed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from mrt.reasoning.evaluation import config as evalconfig
from mrt.reasoning.evaluation.run import run_eval

CHUNKS = 16
evalconfig.CHUNK = 1
OPTIONS = {"n": 2, "budgets": [0, 6], "answer_tokens": 8, "limit": CHUNKS, "split": "test", "votes": 1}


def evaluate(model: str, out: Path) -> None:
    run_eval(model, "countdown", out, {"high": 9, "train": 0, "warmstart": 0, "test": CHUNKS}, name="same", **OPTIONS)


def attempt(model: str, out: Path, grown: int = 0, seconds: float | None = None) -> bool:
    """Whether the evaluation came to its end. It is killed so long after samples.jsonl has `grown` by so many bytes, or
    not at all."""
    pid = os.fork()
    if pid == 0:
        try:
            evaluate(model, out)
            os._exit(0)
        finally:
            os._exit(1)
    if seconds is not None:
        before = size(out)
        while size(out) < before + grown and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"the evaluation failed with {code}")
    return code == 0


def main(model: str, folder: str, kills: str, seed: str) -> None:
    torch.set_num_threads(1)
    alone, disturbed = Path(folder) / "alone", Path(folder) / "disturbed"
    attempt(model, alone)
    rng, struck, lost = random.Random(int(seed)), 0, 0
    samples = disturbed / "samples.jsonl"
    while struck < int(kills):
        before = whole_lines(samples)
        # Every fifth before anything was added; else just behind a chunk, while the next one is sampled or written.
        ended = attempt(model, disturbed, 0 if rng.random() < 0.2 else 1, rng.uniform(0.0, 0.2))
        after = whole_lines(samples)
        kept = len(before) - len(before) % OPTIONS["n"]
        lost += after[:kept] != before[:kept]
        struck += not ended
        if ended:
            (disturbed / "results.json").unlink()
            samples.write_bytes(b"".join(after[: rng.randrange(len(after))]))  # on with the kills, from somewhere
    attempt(model, disturbed)
    results = [json.loads((out / "results.json").read_text()) | {"environment": None} for out in (alone, disturbed)]
    same = (alone / "samples.jsonl").read_bytes() == samples.read_bytes()
    print(json.dumps({"kills": struck, "lost": lost, "same_samples": same, "same_results": results[0] == results[1]}))


def size(out: Path) -> int:
    path = out / "samples.jsonl"
    return path.stat().st_size if path.is_file() else 0


def whole_lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


if __name__ == "__main__":
    main(*sys.argv[1:])
