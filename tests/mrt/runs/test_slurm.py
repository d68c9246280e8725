"""Slurm jobs: what is asked for is checked, and the script does what it says, on a cluster of small programs."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from mrt.errors import ConfigError
from mrt.runs import slurm
from mrt.runs.slurm import Job, batch_script, launch_arguments, parse_job, serve_arguments
from tests.support import ROOT
from tests.support.slurm_cluster import Cluster


@pytest.mark.parametrize(
    ("items", "job"),
    [
        (["nodes=4,vllm=1"], Job(nodes=4, vllm=1)),
        (["nodes=2", "gpus=4,time=2-12:00:00"], Job(nodes=2, gpus=4, time="2-12:00:00")),
        (["nodes=2,time=90,setup=module load a, b"], Job(nodes=2, time="90", setup=("module load a, b",))),
        (["setup=a", "nodes=1", "setup=b=c"], Job(nodes=1, setup=("a", "b=c"))),
        (["nodes=2,vllm=1,serve=--a 'b, c'"], Job(nodes=2, vllm=1, serve=("--a", "b, c"))),
        (["nodes=5,vllm=2,tensor=4,qos=long,config=fsdp2"], Job(5, 2, tensor=4, qos="long", config="fsdp2")),
    ],
)
def test_jobs_are_read(items: list[str], job: Job) -> None:
    assert parse_job(items) == job


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["vllm=1"], "needs the number of nodes"),
        (["nods=4"], "did you mean 'nodes'"),
        (["nodes=4,partitoin=x"], "did you mean 'partition'"),
        (["nodes"], "must read key=value"),
        (["nodes=two"], "nodes = 'two' must be"),
        (["nodes=0"], "nodes=0 must be at least 1"),
        (["nodes=2,vllm=2"], "leaves no node to train on"),
        (["nodes=2,vllm=-1"], "vllm=-1 must be at least 0"),
        (["nodes=2,gpus=8,tensor=3"], "tensor=3 must divide gpus=8"),
        (["nodes=2,time=soon"], "time='soon' must read as Slurm has it"),
        (["nodes=2,partition=a b"], "partition='a b' must be one word"),
        (["nodes=2,name=x\n#SBATCH --uid=0"], "must be one word"),
        (["nodes=2,serve=--a 'b"], "No closing quotation"),
        (["nodes=2,port=80"], "port=80 must lie between"),
    ],
)
def test_what_cannot_be_is_named(items: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_job(items)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(slurm, "POLL", 0.1)
    return Cluster.build(tmp_path, nodes=4)


def script(cluster: Cluster, **options: object) -> str:
    job = Job(**{"nodes": 4, "vllm": 1, "name": "j", "port": cluster.port, **options})
    launch, serve = launch_arguments(job, "config.yaml"), serve_arguments(job, "some/model")
    train = ["-m", "mrt", "train", "r.yaml", "x={a: 1}"]
    return batch_script(job, "runs/r", "r.yaml", launch=launch, train=train, serve=serve)


def after(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_trainers_begin_once_the_server_answers_and_it_ends_with_them(cluster: Cluster) -> None:
    code, said = cluster.run(script(cluster), no_proxy="elsewhere")
    assert code == 0, said
    url = f"http://127.0.0.4:{cluster.port}"
    (serve,) = cluster.calls("vllm")
    assert serve["arguments"][:2] == ["serve", "some/model"]
    assert '{"backend": "nccl"}' in serve["arguments"]
    assert after(serve["arguments"], "--data-parallel-size") == "8"
    assert (serve["dev"], serve["no_proxy"]) == ("1", "elsewhere,127.0.0.4")
    launched = [call["arguments"] for call in cluster.calls("accelerate")]
    assert sorted(after(one, "--machine_rank") for one in launched) == ["0", "1", "2"]
    for one in launched:
        assert after(one, "--num_machines") == "3"
        assert after(one, "--num_processes") == "24"
        assert after(one, "--main_process_ip") == "127.0.0.1"
        assert one[-6:] == ["-m", "mrt", "train", "r.yaml", "x={a: 1}", f"args.vllm_server_base_url={url}"]
    order = [call["program"] for call in cluster.calls()]
    assert order.index("healthy") < order.index("accelerate")
    assert order[-1] == "vllm ended"
    assert "scontrol" not in order
    steps = {call["arguments"]["nodelist"]: call["arguments"]["output"] for call in cluster.calls("srun")}
    assert steps == {
        "127.0.0.4": "runs/r/slurm/vllm-%j-0.log",
        "127.0.0.1,127.0.0.2,127.0.0.3": "runs/r/slurm/train-%j-%n.log",
    }


def test_a_server_over_two_nodes(cluster: Cluster) -> None:
    code, said = cluster.run(script(cluster, vllm=2, tensor=4, serve=("--x", "y z")))
    assert code == 0, said
    head, more = sorted((call["arguments"] for call in cluster.calls("vllm")), key=lambda one: "--headless" in one)
    for one in (head, more):
        assert [after(one, f"--{name}") for name in ("tensor-parallel-size", "data-parallel-size")] == ["4", "4"]
        assert after(one, "--data-parallel-size-local") == "2"
        assert after(one, "--data-parallel-address") == "127.0.0.3"
        assert after(one, "--x") == "y z"
    assert after(more, "--data-parallel-start-rank") == "2"
    assert "--port" not in more
    assert len(cluster.calls("vllm ended")) == 2


def test_no_server_is_asked_for(cluster: Cluster) -> None:
    text = script(cluster, vllm=0)
    code, said = cluster.run(text)
    assert code == 0, said
    assert {call["program"] for call in cluster.calls()} == {"srun", "accelerate"}
    assert len(cluster.calls("accelerate")) == 4
    assert "vllm" not in text


def test_a_server_that_does_not_come_up_ends_the_job_before_training(cluster: Cluster) -> None:
    code, said = cluster.run(script(cluster), FAKE_VLLM_LIVES="0")
    assert code == 1
    assert "vLLM ended before it answered: see runs/r/slurm/vllm-17-" in said
    assert not cluster.calls("accelerate")


def test_trainers_end_with_their_server(cluster: Cluster) -> None:
    code, said = cluster.run(script(cluster), FAKE_VLLM_LIVES="2", FAKE_TRAIN="goes on")
    assert code == 1
    assert "vLLM has ended" in said
    assert len(cluster.calls("accelerate ended")) == 3


def test_what_the_trainers_say_is_what_the_job_says(cluster: Cluster) -> None:
    code, said = cluster.run(script(cluster), FAKE_TRAIN="fails")
    assert code == 7
    assert "ended with exit code 7" in said
    assert cluster.calls("vllm ended")
    assert not cluster.calls("scontrol")


def test_one_trainer_that_fails_ends_the_others(cluster: Cluster) -> None:
    code, said = cluster.run(script(cluster, vllm=0), FAKE_TRAIN="one fails")
    assert code == 7, said
    assert len(cluster.calls("accelerate ended")) == 3


def test_before_its_time_limit_a_job_saves_and_goes_back_into_the_queue(cluster: Cluster) -> None:
    text = script(cluster, grace=5)
    assert "#SBATCH --signal=B:USR1@300" in text
    job = cluster.start(text, FAKE_TRAIN="stops")
    cluster.wait_for("accelerate")
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert [call["arguments"] for call in cluster.calls("scontrol")] == [["requeue", "17"]]
    assert cluster.calls("vllm ended")


def test_an_environment_without_the_programs_is_named(cluster: Cluster) -> None:
    (cluster.folder / "programs" / "vllm").unlink()
    code, said = cluster.run(script(cluster, setup=("echo prepared",)))
    assert code == 2
    assert "prepared" in said
    assert "no vllm on PATH" in said


@pytest.mark.parametrize("options", [{}, {"vllm": 0}, {"vllm": 2}, {"nodes": 1, "vllm": 0, "gpus": 1}])
def test_bash_can_read_it(cluster: Cluster, options: dict[str, int]) -> None:
    done = subprocess.run(["bash", "-n"], input=script(cluster, **options), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("config", ["multi_gpu", "fsdp2", "zero3"])
def test_accelerate_reads_what_its_nodes_are_told(config: str) -> None:
    """The second of three nodes, as accelerate itself understands it, up to what torchrun is started with."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import prepare_multi_gpu_env

    given = launch_arguments(Job(nodes=4, vllm=1), str(ROOT / "recipes" / "accelerate" / f"{config}.yaml"))
    told = ["--machine_rank", "1", *given, "--main_process_ip", "node1", "-m", "mrt", "train", "r.yaml", "--allow-code"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(told))
    assert (args.use_fsdp, args.use_deepspeed) == (config == "fsdp2", config == "zero3")
    assert (args.module, args.training_script, args.training_script_args) == (
        True,
        "mrt",
        ["train", "r.yaml", "--allow-code"],
    )
    if config == "zero3":
        assert args.deepspeed_multinode_launcher == "standard"  # any other one starts the nodes by itself, over ssh
        assert (args.num_machines, args.num_processes, args.machine_rank) == (3, 24, 1)
        return
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("3", "8", 1)
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("static", "node1:29500")
