"""Memory and time of probing traces of a model: MODEL ROWS TOKENS [DTYPE]. Prints one JSON line.

`ratio` is the largest resident memory while prefilling and probing, over weights, keys and values themselves; what the
program with its libraries takes before the model is loaded is left out of both.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import psutil
import torch

from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.models.loading import load_model, pad_id

BOUNDARIES, ANSWERS, LENGTH = 6, 4, 8


def main(name: str, rows: int, tokens: int, dtype: str = "float32") -> None:
    """Loads, prefills, probes; the peak of the process is that of the probe, for loading maps the weights."""
    import transformers.models.llama.modeling_llama  # noqa: F401  (counted as the program, not as the model)

    program = psutil.Process().memory_info().rss
    model, tokenizer = load_model(name)
    model.to(getattr(torch, dtype))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    generator = torch.Generator().manual_seed(0)
    traces = [torch.randint(10, model.config.vocab_size, (tokens,), generator=generator).tolist() for _ in range(rows)]
    cuts = [tokens * (k + 1) // BOUNDARIES for k in range(BOUNDARIES)]
    engine = engine_on(model, pad_id(tokenizer))
    began = time.perf_counter()
    prefix = engine.prefill(traces)
    filled = time.perf_counter()
    values = sum(x.numel() * x.element_size() for layer in prefix.cache.layers for x in (layer.keys, layer.values))
    branches = [Branch(row, cut, (9, 1, 2)) for row in range(rows) for cut in cuts]
    engine.answers(prefix, branches, ANSWERS, LENGTH, [])
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - program
    found = {"weights": weights, "values": values, "peak": peak, "ratio": peak / (weights + values)}
    print(json.dumps(found | {"prefill_s": filled - began, "probe_s": done - filled}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
