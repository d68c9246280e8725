"""A Slurm job that trains on several nodes: what `mrt train RECIPE --slurm nodes=4,vllm=1` asks for, and its script.

One task a node. The first nodes run `accelerate launch`, the last ones `vllm serve`; the script hands the server's
address to the trainers, starts them once it answers, and ends everything with them (docs/multi-node.md).
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from mrt.errors import ConfigError
from mrt.runs.fields import convert_fields, show

# What Slurm takes as a time limit: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}", re.ASCII)
WORD = re.compile(r"[\w.+@%-]+", re.ASCII)  # stands in an #SBATCH line as it is
REST = re.compile(r"(?:^|,)(setup|serve)=")  # these take all that follows
POLL = 5  # seconds between two looks at the server and the trainers

# What the trainer, its probes and its canary need of a server (recipes/README.md).
SERVE = (
    "--enable-prompt-tokens-details",
    "--logprobs-mode",
    "processed_logprobs",
    "--weight-transfer-config",
    '{"backend": "nccl"}',
)


@dataclass(frozen=True)
class Job:
    """What is asked of Slurm. `nodes` counts all of them, the last `vllm` of which sample.

    `tensor` GPUs hold one copy of the model in vLLM; `config` is an accelerate configuration, by its name in
    recipes/accelerate or as a file; `wait` and `grace` are minutes: for the server to answer, and left to save before
    the time limit; `setup` are lines of the shell that prepare the environment, `serve` further arguments of vLLM.
    """

    nodes: int
    vllm: int = 0
    gpus: int = 8
    tensor: int = 1
    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    qos: str = ""
    name: str = ""
    config: str = ""
    port: int = 8000
    wait: int = 30
    grace: int = 10
    setup: tuple[str, ...] = ()
    serve: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("vllm", 0), ("gpus", 1), ("tensor", 1), ("wait", 1), ("grace", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--slurm: {name}={getattr(self, name)} must be at least {least}")
        if self.vllm >= self.nodes:
            raise ConfigError(
                f"--slurm: vllm={self.vllm} of nodes={self.nodes} leaves no node to train on: nodes counts all of them"
            )
        if self.gpus % self.tensor:
            raise ConfigError(f"--slurm: tensor={self.tensor} must divide gpus={self.gpus}: a copy stays on one node")
        if not 1024 <= self.port < 65535:
            raise ConfigError(f"--slurm: port={self.port} must lie between 1024 and 65534")
        if not TIME.fullmatch(self.time):
            raise ConfigError(f"--slurm: time={show(self.time)} must read as Slurm has it: 24:00:00, 90, or 2-12:00:00")
        for name in ("partition", "account", "qos", "name"):
            if getattr(self, name) and not WORD.fullmatch(getattr(self, name)):
                raise ConfigError(f"--slurm: {name}={show(getattr(self, name))} must be one word")

    @property
    def trainers(self) -> int:
        """Nodes that train."""
        return self.nodes - self.vllm

    @property
    def processes(self) -> int:
        """Processes that train, one a GPU."""
        return self.trainers * self.gpus

    @property
    def replicas(self) -> int:
        """Copies of the model on each of vLLM's nodes."""
        return self.gpus // self.tensor


def parse_job(items: Sequence[str]) -> Job:
    """A job from `nodes=4,vllm=1` and the like. `setup=` (a line) and `serve=` (arguments) take all that follows them,
    and may be given several times.

    Raises:
        ConfigError: naming the nearest key for an unknown one, and what is wrong with a value.
    """
    values: dict[str, str] = {}
    rest: dict[str, list[str]] = {"setup": [], "serve": []}
    for item in items:
        found = REST.search(item)
        if found:
            text = item[found.end() :]
            rest[found[1]] += [text] if found[1] == "setup" else _split(text)
            item = item[: found.start()]
        for part in filter(None, item.split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise ConfigError(f"--slurm {show(item)}: {show(part)} must read key=value, as in nodes=4,vllm=1")
            values[key.strip()] = value.strip()
    if "nodes" not in values:
        known = {one.name for one in dataclasses.fields(Job)}
        if not set(values) - known:
            raise ConfigError("--slurm needs the number of nodes: --slurm nodes=4,vllm=1")
    plain = convert_fields(Job, values, "--slurm", values)
    return Job(**plain, setup=tuple(rest["setup"]), serve=tuple(rest["serve"]))


def _split(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError as error:
        raise ConfigError(f"--slurm serve={show(arguments)}: {error}") from error


def serve_arguments(job: Job, model: str, extra: Sequence[str] = ()) -> list[str]:
    """Of `vllm serve`, on every one of its nodes alike."""
    sizes = ["--tensor-parallel-size", str(job.tensor), "--data-parallel-size", str(job.replicas * job.vllm)]
    return [model, *SERVE, *sizes, *extra, *job.serve]


def launch_arguments(job: Job, config: str) -> list[str]:
    """Of `accelerate launch`, on every node alike."""
    sizes = ["--num_machines", str(job.trainers), "--num_processes", str(job.processes)]
    return ["--config_file", config, *sizes, "--main_process_port", "29500"]


def batch_script(
    job: Job, run_dir: str, recipe: str, *, launch: Sequence[str], train: Sequence[str], serve: Sequence[str] = ()
) -> str:
    """The file for sbatch.

    Args:
        recipe: as it was named, for the first line.
        launch: `launch_arguments`.
        train: what `accelerate launch` runs on every process.
        serve: `serve_arguments`, where `job.vllm` is not 0.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quote"] = shlex.quote
    template = (resources.files("mrt.runs") / "templates" / "train.sbatch.jinja").read_text("utf-8")
    facts = {one.name: getattr(job, one.name) for one in dataclasses.fields(Job)}
    facts |= {name: getattr(job, name) for name in ("trainers", "processes", "replicas")}
    quoted = {
        name: [*map(shlex.quote, part)] for name, part in (("launch", launch), ("train", train), ("serve", serve))
    }
    return environment.from_string(template).render(
        job=facts, run_dir=run_dir, recipe=recipe.replace("\n", " "), poll=POLL, **quoted
    )
