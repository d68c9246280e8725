"""The memory plan and the time of a recipe that trains a language model: from its arguments and its model's
configuration, without loading a weight.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrt.runs.plan import MAX_POSITIONS, Settings, Shape
from mrt.runs.recipe import Recipe, import_trainer

PROMPT = 64  # tokens, where nothing says how long prompts are
SFT_LENGTH = 1024
SMALL = 200_000_000  # the held-out prover is a frozen copy below this
ROWS = 32  # at most, in a timing
REPETITIONS = 3


@dataclass(frozen=True)
class Facts:
    """All that a plan of a recipe needs: the configuration, the shape, the settings, and the size of the work.

    `sampled` and `probed` are positions an update at full length, `updates` how many there are.
    """

    config: Any
    shape: Shape
    settings: Settings
    updates: int
    sampled: int
    probed: int
    updated: int

    @property
    def cost(self) -> int:
        """Positions of one update: sampled 1, probed 1, updated 3."""
        return self.sampled + self.probed + 3 * self.updated


def facts(recipe: Recipe, allow_code: bool = False) -> Facts | None:
    """What the recipe will do; None where its trainer takes no language model.

    Raises:
        ConfigError: for arguments that the trainer refuses.
        OSError, ValueError: for a model whose configuration cannot be read.
    """
    args = recipe.build_args(import_trainer(recipe.trainer, allow_code).args_class(), Path(recipe.output_dir))
    if not recipe.model:
        return None
    from mrt.reasoning.models.adapters import adapter_fields

    config = model_config(recipe.model)
    peft = dict(recipe.peft) if recipe.peft else adapter_fields(recipe.model)
    shape = shape_of(config, peft)
    sampling = getattr(args, "num_generations", None) is not None
    rows = args.per_device_train_batch_size * (int(getattr(args, "steps_per_generation", 1) or 1) if sampling else 0)
    answer = int(getattr(args, "max_completion_length", 0) or 0)
    length = PROMPT + answer if sampling else int(getattr(args, "max_length", None) or SFT_LENGTH)
    length = min(length, int(getattr(config, "max_position_embeddings", length)))
    probed = sampling and getattr(args, "probe", "none") != "none" and getattr(args, "rollout", "plain") != "plain"
    settings = Settings(
        micro_batch=args.per_device_train_batch_size,
        length=length,
        rows=rows,
        accumulation=args.gradient_accumulation_steps,
        bytes_each=_bytes_each(args),
        optimiser=str(getattr(args.optim, "value", args.optim)),
        checkpointed=bool(args.gradient_checkpointing),
        frozen_copies=_frozen_copies(args, shape, probed, peft is not None),
        probed=probed,
        fused=sampling,
        lora=peft is not None,
        shards=_shards(),
        max_positions=int(getattr(args, "max_positions", None) or MAX_POSITIONS),
        reserved=_reserved(args),
    )
    tokens = args.per_device_train_batch_size * args.gradient_accumulation_steps * length
    drawn = tokens if sampling else 0
    updates = max(int(args.max_steps), 0)
    found = Facts(config, shape, settings, updates, drawn, drawn if probed else 0, tokens)
    if limit := getattr(args, "max_cost", None):
        updates = min(updates or 10**9, -(-int(limit) // max(found.cost, 1)))
    return Facts(config, shape, settings, updates, drawn, found.probed, tokens)


def model_config(name: str) -> Any:
    """The configuration of a model, or of the tiny one that the warm start builds."""
    from mrt.reasoning.models.loading import load_config
    from mrt.reasoning.training.warmstart import TINY

    if name == TINY:
        from mrt.reasoning.models.tiny import build_model, build_tokenizer

        return build_model(build_tokenizer()).config
    return load_config(name)


def shape_of(config: Any, peft: dict[str, Any] | None = None) -> Shape:
    """Sizes from a configuration; parameters are counted on a model without memory (device `meta`)."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in model.parameters())
    trained = parameters
    if peft is not None:
        from peft import LoraConfig, get_peft_model

        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **peft))
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    return Shape(
        parameters=parameters + (trained if peft is not None else 0),
        trained=trained,
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        vocabulary=int(text.vocab_size),
    )


def _bytes_each(args: Any) -> int:
    """Weights are loaded in float32 unless `model_init_kwargs` says otherwise (TRL)."""
    kwargs = getattr(args, "model_init_kwargs", None) or {}
    asked = str(kwargs.get("dtype", kwargs.get("torch_dtype", "float32")))
    return 2 if asked.endswith(("bfloat16", "float16")) else 4


def _frozen_copies(args: Any, shape: Shape, probed: bool, lora: bool) -> int:
    reference = float(getattr(args, "beta", 0.0) or 0.0) > 0
    choice = getattr(args, "held_out_prover", "none")
    prover = probed and (choice == "reference" or (choice == "auto" and shape.parameters <= SMALL))
    return 0 if lora else int(reference) + int(prover)


def _shards() -> int:
    """Processes that weights are spread over, as the launcher has it in the environment."""
    sharded = any(
        os.environ.get(name, "").lower() == "true" for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )
    return int(os.environ.get("WORLD_SIZE", "1")) if sharded else 1


def _reserved(args: Any) -> float:
    if not getattr(args, "use_vllm", False) or args.vllm_mode != "colocate" or not torch.cuda.is_available():
        return 0.0
    return float(args.vllm_gpu_memory_utilization) * torch.cuda.get_device_properties(0).total_memory


def seconds_an_update(found: Facts) -> float:
    """Time of an update with traces of full length, from timing the model with one layer and with two on this machine.

    Sampling is timed a token at a time over a half-full cache, training as forward and backward; both grow linearly
    with layers, tokens and rows (beyond 32 rows, which is pessimistic on an accelerator).
    """
    s, shape = found.settings, found.shape
    one, two = (_timed(found, layers) for layers in (1, 2))
    decode, train, prefill = (a + max(b - a, 0.0) * (shape.layers - 1) for a, b in zip(one, two, strict=True))
    steps = s.length - PROMPT if s.rows else 0
    turns = s.rows / min(s.rows, ROWS) if s.rows else 0.0
    passes = s.micro_batch * s.accumulation / min(s.micro_batch, ROWS)
    share = found.probed / found.sampled if found.sampled else 0.0
    return decode * steps * turns + prefill * turns * share + train * passes


def _timed(found: Facts, layers: int) -> tuple[float, float, float]:
    """Seconds of a decoding step, of forward and backward, and of a forward pass, with up to 32 rows."""
    import copy

    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(found.config)
    config.get_text_config().num_hidden_layers = layers
    if getattr(config.get_text_config(), "layer_types", None):
        config.get_text_config().layer_types = config.get_text_config().layer_types[:layers]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(config).to(device)
        s, vocabulary = found.settings, found.shape.vocabulary
        rows = min(max(s.rows, 1), ROWS)
        half = torch.randint(vocabulary, (rows, max(s.length // 2, 1)), device=device)
        batch = torch.randint(vocabulary, (min(s.micro_batch, ROWS), s.length), device=device)
    with torch.no_grad():
        cache = model(half, use_cache=True, logits_to_keep=1).past_key_values
        decode = _best(lambda: model(half[:, :1], past_key_values=cache, use_cache=True))
        prefill = _best(lambda: model(half, logits_to_keep=1)) * 2
    return decode, _best(lambda: model(batch, logits_to_keep=s.length // 2).logits.float().mean().backward()), prefill


def _best(run: Callable[[], Any]) -> float:
    """The shortest of a few repetitions, in seconds."""
    times = []
    for _ in range(REPETITIONS):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
