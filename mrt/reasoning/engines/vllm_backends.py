"""Two ways to a vLLM: an `LLM` in this process, and an OpenAI-compatible server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrt.errors import ConfigError, SyncError
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.vllm_setup import require_vllm

MOST_WANTED = 128  # tokens whose log-probability one request may ask for (vLLM's own limit)
CONCURRENT = 64  # requests in flight to a server
TIMEOUT = 600.0  # seconds a server may take for one request


@dataclass(frozen=True)
class Request:
    """One sequence: up to `max_tokens` sampled after `ids`.

    `wanted` asks for the log-probabilities of these tokens as the first one to come; `whole` for those of `ids`.
    """

    ids: tuple[int, ...]
    max_tokens: int = 1
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    wanted: tuple[int, ...] = ()
    whole: bool = False

    def params(self) -> dict[str, Any]:
        """vLLM's sampling parameters; ours are the only stop tokens."""
        params: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k or -1,
            "seed": self.seed,
            "stop_token_ids": list(self.stop_ids),
            "ignore_eos": True,
            "logprobs": 0,
        }
        if self.sampling.allowed:
            params["allowed_token_ids"] = list(self.sampling.allowed)
        if self.wanted:
            params |= {"logprob_token_ids": list(self.wanted), "logprobs": len(self.wanted)}
        return params | ({"prompt_logprobs": 0} if self.whole else {})


@dataclass
class Reply:
    """What came back: sampled ids and their log-probabilities, whether a stop token ended them, how many tokens of the
    request came from the prefix cache, and what `wanted` or `whole` asked for.
    """

    ids: list[int]
    logprobs: list[float]
    stopped: bool
    cached: int = 0
    wanted: dict[int, float] = field(default_factory=dict)
    whole: list[float] = field(default_factory=list)


class Backend(Protocol):
    """Answers requests, in their order; `reset_prefix_cache` makes it forget what it computed with older weights.

    `coupled` says whether requests with one seed draw with the same noise at each place of their answers, wherever
    these begin.
    """

    @property
    def coupled(self) -> bool: ...

    def __call__(self, requests: Sequence[Request]) -> list[Reply]: ...

    def reset_prefix_cache(self) -> None: ...


class Colocated:
    """An `LLM` of vLLM in this process.

    Raises:
        ConfigError: where vLLM is not installed.
    """

    def __init__(self, llm: Any) -> None:
        require_vllm()
        self.llm = llm

    @property
    def coupled(self) -> bool:
        """With vLLM's first model runner, a generator a request; the second one's noise follows the absolute place."""
        return self.seeded and not getattr(self.llm.llm_engine.vllm_config, "use_v2_model_runner", False)

    @property
    def seeded(self) -> bool:
        """On a CPU a seeded request that is prefilled in parts ends in an error."""
        from vllm.platforms import current_platform

        return not (
            current_platform.is_cpu() and self.llm.llm_engine.vllm_config.scheduler_config.enable_chunked_prefill
        )

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        from vllm import SamplingParams

        # Without a seed vLLM draws from torch's own generator of this process, which checkpoints keep.
        extra = {"detokenize": False} | ({} if self.seeded else {"seed": None})
        params = [SamplingParams(**request.params() | extra) for request in requests]
        prompts = [{"prompt_token_ids": list(request.ids)} for request in requests]
        outputs = self.llm.generate(prompts, sampling_params=params, use_tqdm=False)
        replies = []
        for output in outputs:
            (one,) = output.outputs
            ids, steps = list(one.token_ids), one.logprobs or []
            logprobs = [float(step[token].logprob) for token, step in zip(ids, steps, strict=True)]
            first = {int(token): float(entry.logprob) for token, entry in steps[0].items()} if steps else {}
            given = zip(output.prompt_token_ids[1:], (output.prompt_logprobs or [None])[1:], strict=False)
            whole = [float(entry[token].logprob) for token, entry in given]
            replies.append(
                Reply(ids, logprobs, one.finish_reason == "stop", output.num_cached_tokens or 0, first, whole)
            )
        return replies

    def reset_prefix_cache(self) -> None:
        """Raises SyncError where vLLM does not: requests are still running."""
        if self.llm.reset_prefix_cache() is False:
            raise SyncError("vLLM did not empty its prefix cache after a synchronisation: requests are still running")


class TensorParallel:
    """An `LLM` that several processes run together (tensor parallel): each has to be given the same requests.

    Every call is a round: the requests of all are gathered, all run all of them, and each keeps its own replies. A
    process that has nothing left to ask stays for the rounds of the others (`close`): they need not ask equally often.
    """

    def __init__(self, backend: Backend, gather: Callable[[Any], list[Any]], place: int) -> None:
        self.backend, self.gather, self.place = backend, gather, place

    @property
    def coupled(self) -> bool:
        return self.backend.coupled

    @staticmethod
    def of_group(backend: Backend, group: Any) -> TensorParallel:
        """Over a group of `torch.distributed`, whose timeout is the deadline of a round."""
        from torch import distributed

        def gather(mine: Any) -> list[Any]:
            found: list[Any] = [None] * distributed.get_world_size(group)
            try:
                distributed.all_gather_object(found, mine, group=group)
            except RuntimeError as error:
                raise SyncError(
                    f"a process of the tensor parallel group did not come to vLLM's next round ({error}): look at what "
                    "the others did last"
                ) from error
            return found

        return TensorParallel(backend, gather, distributed.get_rank(group))

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        return self._round(list(requests), done=False)

    def reset_prefix_cache(self) -> None:
        self.backend.reset_prefix_cache()

    def close(self) -> None:
        """Serves the others until they are done too."""
        while not self._done(self.gather((True, []))):
            pass

    def _done(self, asked: Sequence[tuple[bool, list[Request]]]) -> bool:
        if all(done for done, _ in asked):
            return True
        self.backend([request for _, theirs in asked for request in theirs])
        return False

    def _round(self, requests: list[Request], done: bool) -> list[Reply]:
        asked = self.gather((done, requests))
        replies = self.backend([request for _, theirs in asked for request in theirs])
        start = sum(len(theirs) for _, theirs in asked[: self.place])
        return replies[start : start + len(requests)]


class Served:
    """A server started with `vllm serve MODEL --enable-prompt-tokens-details --logprobs-mode processed_logprobs`.

    Without the first option reused tokens count as prefilled; without the second, log-probabilities ignore temperature.
    Training needs `VLLM_SERVER_DEV_MODE=1` too, without which a server takes no weights and keeps its prefix cache.
    A request that fails or takes longer than `timeout` seconds ends the run; nothing waits for ever.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.coupled = False  # a server does not say which model runner it has
        self.card: dict[str, Any] = self._call("/v1/models")["data"][0]
        self.model = str(self.card["id"])

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        with ThreadPoolExecutor(CONCURRENT) as pool:
            return list(pool.map(self._one, requests))

    def reset_prefix_cache(self) -> None:
        """Asks the server, which has to run with VLLM_SERVER_DEV_MODE=1 for it."""
        try:
            self._call("/reset_prefix_cache", {})
        except ConfigError as error:
            cure = "start it with VLLM_SERVER_DEV_MODE=1 in its environment, or else answers mix old and new weights"
            raise ConfigError(f"{error}: {cure}") from error

    def _one(self, request: Request) -> Reply:
        asked = {"model": self.model, "prompt": list(request.ids), "return_token_ids": True}
        answer = self._call("/v1/completions", asked | request.params() | {"return_tokens_as_token_ids": True})
        (choice,) = answer["choices"]
        logprobs = choice["logprobs"] or {"token_logprobs": [], "top_logprobs": []}
        first = (logprobs["top_logprobs"] or [{}])[0] or {}
        details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
        given = zip(request.ids[1:], (choice.get("prompt_logprobs") or [None])[1:], strict=False)
        return Reply(
            ids=list(choice["token_ids"]),
            logprobs=[float(one) for one in logprobs["token_logprobs"]],
            stopped=choice["finish_reason"] == "stop",
            cached=int(details.get("cached_tokens") or 0),
            wanted={int(name.removeprefix("token_id:")): float(value) for name, value in first.items()},
            whole=[float(entry[str(token)]["logprob"]) for token, entry in given],
        )

    def _call(self, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, data, headers), timeout=self.timeout
            ) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            raise ConfigError(f"the vLLM server at {self.url} refused {path} ({error.code}): {said}") from error
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the vLLM server at {self.url} did not answer {path} ({error}): start `vllm serve MODEL`, or set "
                "vllm_server_base_url"
            ) from error
