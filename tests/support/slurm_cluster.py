"""A cluster of loopback addresses: `scontrol`, `srun`, `accelerate` and `vllm` as small programs on PATH that note what
they were called with, and behave as the environment tells them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import free_port

SRUN = """
import os, signal, subprocess, sys, time
options = sys.argv[1 : next(i for i, one in enumerate(sys.argv) if i and not one.startswith("--"))]
given = dict(option[2:].split("=", 1) for option in options)
command = sys.argv[1 + len(options):]
hosts = given["nodelist"].split(",")
note("srun", given, command=command[0])
assert len(hosts) == int(given["nodes"]) == int(given["ntasks"])
tasks = [subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(i), "SLURMD_NODENAME": host})
         for i, host in enumerate(hosts)]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
first = 0  # the exit code of whoever failed by itself, before the others were ended for it
while any(task.poll() is None for task in tasks):
    first = first or next((abs(task.poll()) for task in tasks if task.poll()), 0)
    if given.get("kill-on-bad-exit") == "1" and first:
        [task.terminate() for task in tasks if task.poll() is None]
    time.sleep(0.05)
sys.exit(first or next((abs(task.poll()) for task in tasks if task.poll()), 0))
"""
VLLM = """
import os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
signal.signal(signal.SIGTERM, lambda *_: (note("vllm ended", []), os._exit(0)))
note("vllm", sys.argv[1:], dev=os.environ.get("VLLM_SERVER_DEV_MODE"), no_proxy=os.environ.get("no_proxy"))
lives = float(os.environ.get("FAKE_VLLM_LIVES", "60"))
if lives == 0:
    sys.exit(3)
if "--headless" not in sys.argv:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
            note("healthy", [])
        def log_message(self, *_): pass
    time.sleep(0.5)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    server = HTTPServer((os.environ["SLURMD_NODENAME"], port), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(lives)
"""
ACCELERATE = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (note("accelerate ended", []), os._exit(143)))
note("accelerate", sys.argv[1:])  # from here on a signal is noted
how, stop = os.environ.get("FAKE_TRAIN", "ends"), pathlib.Path(os.environ["MRT_STOP_FILE"])
if how == "one fails":
    how = "fails" if os.environ["SLURM_NODEID"] == "0" else "goes on"
    nodes = len(os.environ["SLURM_JOB_NODELIST"].split(","))
    while how == "fails" and LOG.read_text().count('"accelerate"') < nodes:  # once all are there
        time.sleep(0.05)
for _ in range(300 if how in ("goes on", "stops") else 0):
    if how == "stops" and stop.exists():
        break
    time.sleep(0.1)
(stop.parents[1] / "run.json").write_text('{"finished": %s}' % ("true" if how == "ends" else "false"))
sys.exit(7 if how == "fails" else 0)
"""
SCONTROL = """
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("\\n".join(os.environ["SLURM_JOB_NODELIST"].split(",")))
else:
    note("scontrol", sys.argv[1:])
"""
NOTE = """#!{python} -IS
import json, pathlib
LOG = pathlib.Path({log!r})
def note(program, arguments, **more):
    with LOG.open("a") as file:
        file.write(json.dumps(dict(program=program, arguments=arguments, **more)) + "\\n")
"""


@dataclass
class Cluster:
    """Runs batch scripts in `folder`, which has `programs` on its PATH."""

    folder: Path
    nodes: int
    port: int

    @staticmethod
    def build(folder: Path, nodes: int) -> Cluster:
        programs = folder / "programs"
        programs.mkdir()
        head = NOTE.format(python=sys.executable, log=str(folder / "calls.jsonl"))
        for name, text in (("srun", SRUN), ("vllm", VLLM), ("accelerate", ACCELERATE), ("scontrol", SCONTROL)):
            (programs / name).write_text(head + text)
            (programs / name).chmod(0o755)
        (programs / "python").symlink_to(sys.executable)
        return Cluster(folder, nodes, free_port())

    def start(self, script: str, **environment: str) -> subprocess.Popen[str]:
        """The batch script as Slurm runs it, on the first node."""
        (self.folder / "job.sbatch").write_text(script)
        hosts = ",".join(f"127.0.0.{1 + i}" for i in range(self.nodes))
        path = f"{self.folder / 'programs'}{os.pathsep}{os.environ['PATH']}"
        slurm = {"SLURM_JOB_NODELIST": hosts, "SLURM_JOB_ID": "17", "PATH": path}
        return subprocess.Popen(
            ["bash", "job.sbatch"], cwd=self.folder, env={**os.environ, **slurm, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, script: str, **environment: str) -> tuple[int, str]:
        """Exit code and output."""
        job = self.start(script, **environment)
        said, _ = job.communicate(timeout=60)
        return job.returncode, said

    def calls(self, program: str = "") -> list[dict]:
        """What was called, in order."""
        log = self.folder / "calls.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [call for call in map(json.loads, lines) if program in ("", call["program"])]

    def wait_for(self, program: str, seconds: float = 30) -> None:
        """Until `program` was called."""
        end = time.monotonic() + seconds
        while not self.calls(program):
            assert time.monotonic() < end, f"{program} was not called"
            time.sleep(0.05)
