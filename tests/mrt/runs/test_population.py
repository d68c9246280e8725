"""Populations: jobs whose workers are killed at random end as if nobody had touched them; failures are files."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mrt.errors import ConfigError
from mrt.runs.population import Population, Result
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import read_run, start_run, write_json
from mrt.runs.workers import LocalWorkers, RayWorkers, Worker, Workers

TRAIN = """
import json, os, sys, time
folder, steps, pause, code = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
path = os.path.join(folder, "state.json")
state = json.load(open(path)) if os.path.exists(path) else {"step": 0, "value": 1}
with open(os.path.join(folder, "starts"), "a") as file: file.write(f"{state['step']}\\n")
while state["step"] < steps:
    state = {"step": state["step"] + 1, "value": (state["value"] * 48271) % 2147483647}
    json.dump(state, open(path + ".new", "w"))
    os.replace(path + ".new", path)
    with open(os.path.join(folder, "metrics.jsonl"), "a") as file: file.write(json.dumps(state) + "\\n")
    time.sleep(pause)
if code:
    print("the reason stands here", file=sys.stderr)
    sys.exit(code)
os.replace(os.path.join(folder, "run.finished.json"), os.path.join(folder, "run.json"))
"""


@dataclass
class Trainers:
    """Local processes that train in a few lines instead of `mrt train`: a state on disk, one step after the other."""

    steps: int = 5
    pause: float = 0.0
    codes: dict[str, int] = field(default_factory=dict)
    begun: list[Any] = field(default_factory=list)
    under: Workers = field(default_factory=LocalWorkers)

    def start(self, command: Sequence[str], log: Path, answer: Path, threads: int = 1) -> Worker:
        name = Path(command[command.index("train") + 1]).stem
        folder = str(log.parent.parent / "runs" / name.removeprefix("runs-"))
        code = str(self.codes.get(name.removeprefix("runs-"), 0))
        own = [sys.executable, "-S", "-c", TRAIN, folder, str(self.steps), str(self.pause), code]
        worker = self.under.start(own, log, answer, threads)
        self.begun.append(worker)
        return worker


def jobs(folder: Path, count: int) -> list[Recipe]:
    made = [
        Recipe("made:Up", args={"max_steps": 5}, output_dir=str(folder / "runs" / f"j{i}"), seed=i)
        for i in range(count)
    ]
    for job in made:
        out = Path(job.output_dir)
        if not out.exists():
            out.mkdir(parents=True)
            start_run(out, job, [])
            write_json(out / "run.finished.json", read_run(out) | {"finished": True})
            (out / "checkpoint-0").mkdir()
    return made


def final(folder: Path, count: int) -> list[dict[str, int]]:
    return [json.loads((folder / "runs" / f"j{i}" / "state.json").read_text()) for i in range(count)]


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    with Population(undisturbed, Trainers(), 3, stream=io.StringIO()) as population:
        assert all(result.finished for result in population.map(jobs(undisturbed, 8)))
    trainers, rng, killed, over = Trainers(pause=0.02), random.Random(0), 0, threading.Event()

    def kill() -> None:
        nonlocal killed
        while not over.is_set() and killed < 20:
            alive = [worker for worker in trainers.begun if worker.poll() is None]
            if alive:
                os.kill(rng.choice(alive).pid, signal.SIGKILL)
                killed += 1
            time.sleep(rng.uniform(0.0, 0.15))

    with Population(disturbed, trainers, 3, tries=50, stream=io.StringIO()) as population:
        killer = threading.Thread(target=kill)
        killer.start()
        results = population.map(jobs(disturbed, 8))
        over.set()
        killer.join()
    assert killed >= 8
    assert all(result.finished for result in results)
    assert final(disturbed, 8) == final(undisturbed, 8)
    starts = [(disturbed / "runs" / f"j{i}" / "starts").read_text().split() for i in range(8)]
    assert any(begin != "0" for one in starts for begin in one[1:]), "jobs go on from where they stood"
    seen = [
        json.loads(line)["step"] for i in range(8) for line in (disturbed / "runs" / f"j{i}" / "metrics.jsonl").open()
    ]
    assert len(seen) <= 8 * 5 + killed, "a step is taken twice only where it was not saved"


def test_what_is_finished_is_not_run_twice(tmp_path: Path) -> None:
    first, again = Trainers(), Trainers()
    with Population(tmp_path, first, stream=io.StringIO()) as population:
        population.map(jobs(tmp_path, 2))
    with Population(tmp_path, again, stream=io.StringIO()) as population:
        results = population.map(jobs(tmp_path, 3))
    assert (len(first.begun), len(again.begun)) == (2, 1)
    assert [result.tries for result in results] == [0, 0, 1]


def test_a_failure_is_a_file_and_the_others_go_on(tmp_path: Path) -> None:
    trainers = Trainers(codes={"j1": 3})
    shown = io.StringIO()
    with Population(tmp_path, trainers, stream=shown) as population:
        results = population.map(jobs(tmp_path, 3))
    assert [result.finished for result in results] == [True, False, True]
    assert "exit code 3" in results[1].message
    assert "the reason stands here" in results[1].message
    stored = json.loads((tmp_path / "runs-j1.failed.json").read_text())
    assert (stored["exit_code"], stored["message"]) == (3, results[1].message)
    assert "runs-j1: failed" in shown.getvalue()
    assert len(trainers.begun) == 3, "an error of its own is not tried again"
    trainers.codes.clear()
    with Population(tmp_path, trainers, stream=shown) as population:
        assert population.map(jobs(tmp_path, 3))[1] == Result(tmp_path / "runs" / "j1", True, 1)
    assert not (tmp_path / "runs-j1.failed.json").exists()


def test_closing_ends_what_runs(tmp_path: Path) -> None:
    trainers = Trainers(steps=1000, pause=0.1)
    population = Population(tmp_path, trainers, 1, stream=io.StringIO())
    futures = [population.submit(job) for job in jobs(tmp_path, 2)]
    while not trainers.begun:
        time.sleep(0.01)
    population.close()
    assert all(worker.poll() is not None for worker in trainers.begun)
    assert futures[0].result() == Result(tmp_path / "runs" / "j0", False, 1, "interrupted")
    assert futures[1].cancelled() or not futures[1].result().finished


def test_an_interrupted_job_is_no_failure(tmp_path: Path) -> None:
    with Population(tmp_path, Trainers(codes={"j0": 130}), stream=io.StringIO()) as population:
        (result,) = population.map(jobs(tmp_path, 1))
    assert result == Result(tmp_path / "runs" / "j0", False, 1, "interrupted")
    assert not list(tmp_path.glob("*.failed.json"))


def test_mistakes_are_told_before_anything_runs(tmp_path: Path) -> None:
    with Population(tmp_path, Trainers(), stream=io.StringIO()) as population:
        one, two = jobs(tmp_path, 2)
        with pytest.raises(ConfigError, match="output_dir of its own"):
            population.map([one, one])
        other = Recipe("made:Up", args={"max_steps": 6}, output_dir=two.output_dir)
        with pytest.raises(ConfigError, match="belongs to another recipe"):
            population.map([one, other])
    with pytest.raises(ConfigError, match="width=0"):
        Population(tmp_path, width=0)


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_of_which_one_dies(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    import ray
    from ray.cluster_utils import Cluster

    undisturbed = tmp_path / "a"
    with Population(undisturbed, Trainers(), 3, stream=io.StringIO()) as population:
        population.map(jobs(undisturbed, 6))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        trainers = Trainers(pause=0.5, under=RayWorkers(cluster.address))
        with Population(tmp_path / "b", trainers, 3, tries=9, stream=io.StringIO()) as population:
            futures = [population.submit(job) for job in jobs(tmp_path / "b", 6)]
            while not any((tmp_path / "b" / "runs" / f"j{i}" / "starts").exists() for i in range(3)):
                time.sleep(0.1)
            cluster.remove_node(node, allow_graceful=False)
            results = [future.result() for future in futures]
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert all(result.finished for result in results)
    assert any(result.tries > 1 for result in results), "the jobs of the node that died ran again"
    assert final(tmp_path / "b", 6) == final(undisturbed, 6)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'mrt-rl\[ray\]'"):
        RayWorkers()
