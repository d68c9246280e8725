"""vLLM beside training: nobody asks before the weights are there, the prefix cache is emptied, a stale one is caught;
processes that run one vLLM together, or wait for each other, neither hang nor disagree."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from mrt.errors import ConfigError, SyncError
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.vllm import VLLMEngine
from mrt.reasoning.engines.vllm_backends import Request, Served, TensorParallel
from mrt.reasoning.engines.vllm_setup import check_vllm
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.training.canary import EXACT, SyncCanary, WatchedSync, canary_sequences
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.training.meeting import Meetings
from tests.support.vllm_standin import MODEL, TOKENIZER, Standin, serving

pytestmark = pytest.mark.training

GREEDY = Sampling(temperature=0)


def moved(model: Any) -> Any:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model


def watched(standin: Standin, trained: Any, reset: Callable[[], None] | None, **facts: Any) -> WatchedSync:
    """A sync that carries the weights over as they are."""
    canary = SyncCanary(canary_sequences(len(TOKENIZER)), EXACT)

    def transfer() -> None:
        standin.model = trained[0]

    def check() -> str:
        try:
            canary.check(VLLMEngine(standin), TransformersEngine(trained[0], 0), canary.syncs)
        except SyncError as error:
            return str(error)
        return ""

    return WatchedSync(transfer, reset, check, **facts)


def test_a_prefix_cache_from_before_a_sync_is_caught() -> None:
    trained = [MODEL]
    forgetful, stale = Standin(), Standin()
    good = watched(forgetful, trained, forgetful.reset_prefix_cache)
    bad = watched(stale, trained, None)
    for sync in (good, bad):
        sync()
    trained[0] = moved(MODEL)
    good()
    assert forgetful.resets == 2
    with pytest.raises(SyncError, match="prefix cache not emptied"):
        bad()


def test_the_canary_can_be_thinned_and_switched_off() -> None:
    asked: list[int] = []
    for every, expected in ((1, 6), (3, 2), (0, 0)):
        asked.clear()
        sync = WatchedSync(lambda: None, None, lambda: asked.append(1) or "", every=every)
        for _ in range(6):
            sync()
        assert len(asked) == expected


def test_a_server_empties_its_prefix_cache() -> None:
    with serving() as (url, _):
        served = Served(url)
        engine = VLLMEngine(served)
        ids = [list(range(4, 20))]
        for _ in range(2):
            engine.answers(engine.prefill(ids), [Branch(0, 16)], 1, 2, [], sampling=GREEDY)
        reused = engine.counts.reused
        assert reused > 0
        served.reset_prefix_cache()
        engine.answers(engine.prefill(ids), [Branch(0, 16)], 1, 2, [], sampling=GREEDY)
        assert engine.counts.reused == reused


def test_a_server_that_cannot_empty_its_prefix_cache_is_named() -> None:
    with (
        serving(dev=False) as (url, _),
        pytest.raises(ConfigError, match=r"\(404\).*start it with VLLM_SERVER_DEV_MODE=1"),
    ):
        Served(url).reset_prefix_cache()


def settings(**changed: Any) -> Any:
    usual = {"vllm_mode": "colocate", "vllm_enable_sleep_mode": True, "rollout": "probed"}
    return SimpleNamespace(**usual | {"vllm_tensor_parallel_size": 1, "world_size": 1} | changed)


def test_sleep_mode_is_refused_where_vllm_has_to_be_awake() -> None:
    for wrong in (settings(), settings(rollout="plain")):
        with pytest.raises(ConfigError, match="vllm_enable_sleep_mode=false"):
            check_vllm(wrong)
    for right in (
        settings(vllm_mode="server"),
        settings(vllm_enable_sleep_mode=False),
        settings(rollout="plain", sync_check_every=0),
    ):
        check_vllm(right)


def test_processes_that_share_a_vllm_divide_all_of_them() -> None:
    awake = {"vllm_enable_sleep_mode": False}
    check_vllm(settings(vllm_tensor_parallel_size=2, world_size=4, **awake))
    with pytest.raises(ConfigError, match=r"vllm_tensor_parallel_size=2 must divide the number of processes \(3\)"):
        check_vllm(settings(vllm_tensor_parallel_size=2, world_size=3, **awake))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vllm_enable_sleep_mode": True}, "set vllm_enable_sleep_mode=false"),
        ({"vllm_tensor_parallel_size": 2}, "vllm_tensor_parallel_size=2 must divide"),
    ],
)
def test_a_trainer_refuses_at_construction(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Before anything is loaded, vLLM included: the model's name leads nowhere."""
    args = MRTConfig(output_dir=str(tmp_path), use_cpu=True, use_vllm=True, report_to=[], **options)
    with pytest.raises(ConfigError, match=message):
        MRTTrainer(model="no/model", reward_funcs=len, args=args)


# ---- several processes, here threads


def together(*runs: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(runs)) as pool:
        return [one.result(timeout=60) for one in [pool.submit(run) for run in runs]]


class Group:
    """all_gather_object over threads, and how often it was called."""

    def __init__(self, size: int) -> None:
        self.barrier, self.said, self.rounds = threading.Barrier(size, timeout=30), [None] * size, 0

    def gather(self, rank: int) -> Callable[[Any], list[Any]]:
        def run(mine: Any) -> list[Any]:
            self.said[rank] = mine
            self.barrier.wait()
            heard = list(self.said)
            self.barrier.wait()
            self.rounds += rank == 0
            return heard

        return run


def test_ranks_of_one_vllm_give_it_the_same_requests_however_often_they_ask() -> None:
    """Rank 0 asks three times, rank 1 once: both stay until the last request, and each gets its own replies."""
    group, backends = Group(2), [Standin(), Standin()]
    rows = [[[5, 6, 7], [8, 9, 10, 11]], [[12, 13]]]

    def run(rank: int, times: int) -> list[list[int]]:
        engine = VLLMEngine(TensorParallel(backends[rank], group.gather(rank), rank))
        found = []
        for _ in range(times):
            branches = [Branch(i, len(row)) for i, row in enumerate(rows[rank])]
            answers = engine.answers(engine.prefill(rows[rank]), branches, 1, 4, [], sampling=GREEDY)
            found.append([ids for answer in answers for ids in answer.ids])
        engine.close()
        return found

    first, second = together(lambda: run(0, 3), lambda: run(1, 1))
    assert backends[0].seen == backends[1].seen or [r.ids for r in backends[0].seen] == [
        r.ids for r in backends[1].seen
    ]
    assert len(backends[0].seen) == 3 * 2 + 1
    alone = Standin()
    expected = [alone([Request(tuple(row), 4, GREEDY)])[0].ids for row in (*rows[0], *rows[1])]
    assert first == [expected[:2]] * 3
    assert second == [expected[2:]]


def test_nobody_asks_while_weights_are_on_their_way() -> None:
    """Rank 0 streams for a while; rank 1, which only takes part in the gathering, does not leave the sync before it."""
    store, order = HashStore(), []
    streaming = threading.Event()

    def stream() -> None:
        streaming.wait(0.3)
        order.append("weights")

    def run(rank: int) -> None:
        meetings = Meetings(store, rank, range(2), deadline=20)
        WatchedSync(stream if rank == 0 else lambda: None, None, lambda: "", meetings, every=0)()
        order.append(f"rank {rank} asks")

    together(lambda: run(0), lambda: run(1))
    assert order[0] == "weights"


def test_what_one_process_finds_wrong_ends_all() -> None:
    store = HashStore()

    def run(rank: int) -> str:
        meetings = Meetings(store, rank, range(2), deadline=20)
        try:
            WatchedSync(lambda: None, None, lambda: "stale" if rank == 0 else "", meetings)()
        except SyncError as error:
            return str(error)
        return ""

    assert together(lambda: run(0), lambda: run(1)) == ["stale", "stale"]


@pytest.mark.parametrize(("engine", "sequences"), [("transformers", 50), ("vllm", 488), ("http://host:8000", 488)])
def test_an_evaluation_keeps_vllm_busy(engine: str, sequences: int) -> None:
    """AIME: 4 samples of 4096 tokens each were 60 sequences at a time."""
    config = EvalConfig(model="m", problems="files", n=4, budgets=(4096,), engine=engine)
    assert config.chunk == (sequences if engine != "transformers" else 15)
