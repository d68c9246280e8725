"""A stand-in for vLLM that computes with transformers: in process, and as an HTTP server that speaks vLLM's part of the
completions protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import torch
from transformers import DynamicCache

from mrt.reasoning.engines.sampling import Sampling, shaped
from mrt.reasoning.engines.vllm_backends import Reply, Request
from mrt.reasoning.models.tiny import build_model, build_tokenizer

TOKENIZER = build_tokenizer()
MODEL = build_model(TOKENIZER, hidden=32, layers=2, heads=2, seed=1).eval()
BLOCK = 4


class Standin:
    """Answers requests with transformers, one token at a time, and has a prefix cache of whole blocks: keys and values
    as they were when a block was computed, until it is reset."""

    def __init__(self, model: Any = MODEL) -> None:
        self.model = model
        self.blocks: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.seen: list[Request] = []
        self.resets = 0
        self.coupled = True

    def reset_prefix_cache(self) -> None:
        self.resets += 1
        self.blocks.clear()

    def __call__(self, requests: Sequence[Request]) -> list[Reply]:
        self.seen += requests
        return [self._one(request) for request in requests]

    def _logprobs(self, ids: Sequence[int], cached: int = 0) -> torch.Tensor:
        """(len(ids) - cached, V), behind a cached block; what is computed on the way is kept in blocks."""
        cache = DynamicCache()
        if cached:
            for layer, (keys, values) in enumerate(self.blocks[tuple(ids[:cached])]):
                cache.update(keys, values, layer)
        with torch.no_grad():
            out = self.model(torch.tensor([list(ids)[cached:]]), past_key_values=cache, use_cache=True)
        for end in range(BLOCK, len(ids), BLOCK):
            if tuple(ids[:end]) not in self.blocks:
                layers = out.past_key_values.layers
                self.blocks[tuple(ids[:end])] = [(one.keys[:, :, :end], one.values[:, :, :end]) for one in layers]
        return out.logits[0].double().log_softmax(-1)

    def _one(self, request: Request) -> Reply:
        cached = 0
        while not request.whole and cached + BLOCK < len(request.ids) and request.ids[: cached + BLOCK] in self.blocks:
            cached += BLOCK
        generator = torch.Generator().manual_seed(request.seed)
        ids, reply = list(request.ids), Reply([], [], False, cached)
        for _ in range(request.max_tokens):
            after = self._logprobs(ids, cached)[-1]
            if request.sampling.allowed:  # processed log-probabilities, as vLLM is asked for
                after = shaped(after[None], request.sampling).log_softmax(-1)[0]
            greedy = request.sampling.temperature == 0
            token = int(after.argmax() if greedy else torch.multinomial(after.exp(), 1, generator=generator))
            if not reply.ids:
                reply.wanted = {one: float(after[one]) for one in request.wanted}
            ids.append(token)
            reply.ids.append(token)
            reply.logprobs.append(float(after[token]))
            if token in request.stop_ids:
                reply.stopped = True
                break
        if request.whole:
            with torch.no_grad():  # past the prefix cache
                table = self.model(torch.tensor([list(request.ids)])).logits[0].double().log_softmax(-1)
            reply.whole = [float(table[i, token]) for i, token in enumerate(request.ids[1:])]
        return reply


@contextmanager
def serving(most: int = 50, dev: bool = True, **card: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(address, what it was asked); refuses more than `most` tokens, and says `card` of its model. `dev`: has the
    routes of VLLM_SERVER_DEV_MODE."""
    standin, asked = Standin(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(200, {"data": [{"id": "tiny", **card}]})

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/reset_prefix_cache" and not dev:
                self._say(404, {"detail": "Not Found"})
                return
            if self.path == "/reset_prefix_cache":
                standin.reset_prefix_cache()
                self._say(200, {"success": True})
                return
            asked.append(content)
            if content["max_tokens"] > most:
                self._say(400, {"error": "max_tokens is too large"})
                return
            request = Request(
                tuple(content["prompt"]), content["max_tokens"], Sampling(content["temperature"]),
                tuple(content["stop_token_ids"]), content["seed"], tuple(content.get("logprob_token_ids", ())),
                "prompt_logprobs" in content,
            )  # fmt: skip
            (reply,) = standin([request])
            top = [{f"token_id:{token}": value for token, value in reply.wanted.items()}, *[None] * len(reply.ids)]
            whole = [None, *({str(t): {"logprob": v}} for t, v in zip(request.ids[1:], reply.whole, strict=False))]
            choice = {
                "token_ids": reply.ids,
                "finish_reason": "stop" if reply.stopped else "length",
                "logprobs": {"token_logprobs": reply.logprobs, "top_logprobs": top[: len(reply.ids)]},
                "prompt_logprobs": whole if request.whole else None,
            }
            usage = {"prompt_tokens_details": {"cached_tokens": reply.cached}}
            self._say(200, {"choices": [choice], "usage": usage})

        def _say(self, code: int, content: Any) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: Any) -> None:
            pass

    class Server(HTTPServer):
        request_queue_size = 128  # all branches ask at once; a shorter queue resets connections

    httpd = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", asked
    finally:
        httpd.shutdown()
