"""What a run of a causal LM needs in memory, before anything is loaded: arithmetic on shapes and settings.

The largest moment counts: weights, gradients, optimiser and frozen copies are always there; keys and values while
sampling, activations while training. Figures are of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

GIB = 2**30
PROGRAM = 0.55 * GIB  # Python with torch, transformers and TRL imported, a trainer built, and allocators' slack
CONTEXT = 0.6 * GIB  # of CUDA, on the accelerator
MAX_POSITIONS = 65_536  # of an engine's keys and values at work at one time, by default
GROWING = 1.25  # keys and values, an eighth as much room again, and one layer's old ones while they are copied
KEPT = 1.0  # a copy of them, for the probes
LOGIT_COPIES = 4  # logits in float32, and what sampling makes of them
SFT_COPIES = 3  # logits, their float32 copy and its gradient
FUSED_TOKENS = 1024  # the fused head computes so many tokens' logits at a time
ADAPTER = 0.01  # share of the parameters that an adapter of rank 16 has, about
OPTIMISER_STATES = {"adam": 2, "ademamix": 3, "lion": 1, "rmsprop": 1, "adagrad": 1, "sgd": 0, "adafactor": 0}


@dataclass(frozen=True)
class Shape:
    """A transformer: parameters in all and trained, layers, widths in numbers, vocabulary."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    def kv_numbers(self) -> int:
        """Keys and values of one position."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def saved_numbers(self, checkpointed: bool) -> int:
        """What the backward pass needs of one position: norms, projections, attention and MLP of each layer.

        With recomputation one number per hidden unit and layer, and one layer at a time in full.
        """
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = 6 * self.hidden + 5 * query + 4 * key + 4 * self.intermediate
        return self.layers * self.hidden + layer if checkpointed else self.layers * layer


@dataclass(frozen=True)
class Settings:
    """What of a recipe's arguments decides memory. Lengths in tokens; `rows` are sampled at one time (0: none)."""

    micro_batch: int
    length: int
    rows: int = 0
    accumulation: int = 1
    bytes_each: int = 4  # of weights, gradients, activations
    optimiser: str = "adamw_torch"
    checkpointed: bool = False
    frozen_copies: int = 0
    probed: bool = False
    fused: bool = True  # the head's logits are never there all at once
    lora: bool = False
    shards: int = 1
    max_positions: int = MAX_POSITIONS  # of keys and values at work at one time
    reserved: float = 0.0  # bytes that another engine takes for itself (vLLM)


@dataclass(frozen=True)
class Plan:
    """Bytes by part, in the order of a table.

    `accumulating`: gradients of earlier micro-batches wait while later ones run. Otherwise they come as activations go.
    """

    parts: dict[str, float]
    accumulating: bool = True

    @property
    def peak(self) -> float:
        """The largest moment: what stays, and the larger of sampling and training."""
        gradients = self.parts.get("gradients", 0.0)
        stays = sum(v for k, v in self.parts.items() if k not in (*SAMPLING, *TRAINING, "gradients"))
        training = sum(self.parts[k] for k in TRAINING)
        training = training + gradients if self.accumulating else max(training, gradients)
        return stays + max(sum(self.parts[k] for k in SAMPLING), training)

    def lines(self) -> Iterator[str]:
        """One line a part, then the peak, in GiB."""
        for name, size in self.parts.items():
            if size >= 0.0005 * GIB:
                yield f"{name} {size / GIB:.3f}"
        yield f"peak {self.peak / GIB:.2f} GiB"


SAMPLING, TRAINING = ("keys and values", "logits (sampling)"), ("activations", "logits (training)")


def plan(shape: Shape, settings: Settings, accelerator: bool = False) -> Plan:
    """The parts of one process. Sharding (FSDP, ZeRO-3) divides weights, gradients and optimiser."""
    s, each = settings, settings.bytes_each
    positions = min(s.rows * s.length, max(s.max_positions, s.length))
    kept = KEPT if s.probed and s.rows * s.length <= s.max_positions else 0.0
    tokens = s.micro_batch * s.length
    head = min(tokens, FUSED_TOKENS) if s.fused else tokens
    return Plan(
        {
            "program": CONTEXT if accelerator else PROGRAM,
            "other engine": s.reserved,
            "weights": shape.parameters * each / s.shards,
            "frozen copies": s.frozen_copies * shape.parameters * each / s.shards,
            "gradients": shape.trained * each / s.shards,
            "optimiser": shape.trained * _optimiser_bytes(s.optimiser, each) / s.shards,
            "keys and values": positions * shape.kv_numbers() * each * (GROWING + kept),
            "logits (sampling)": s.rows * shape.vocabulary * 4 * LOGIT_COPIES,
            "activations": tokens * shape.saved_numbers(s.checkpointed) * each,
            "logits (training)": head * shape.vocabulary * 4 * SFT_COPIES,
        },
        accumulating=s.accumulation > 1,
    )


def _optimiser_bytes(name: str, each: int) -> float:
    states = next((count for key, count in OPTIMISER_STATES.items() if key in name), 2)
    return states * (1 if "8bit" in name else 0.5 if "4bit" in name else each)


def proposals(shape: Shape, settings: Settings, accelerator: bool, room: float) -> tuple[list[str], Plan]:
    """Overrides towards `room` bytes, gentlest first, and the plan with all of them, which may still not fit.

    Smaller micro-batches with more accumulation (the same update), then recomputed activations (slower), then an
    adapter in place of all weights.
    """
    batch: list[str] = []
    others: list[str] = []
    for _ in range(6):
        if plan(shape, settings, accelerator).peak <= room or settings.micro_batch % 2:
            break
        settings = replace(settings, micro_batch=settings.micro_batch // 2, accumulation=settings.accumulation * 2)
        batch = [
            f"args.per_device_train_batch_size={settings.micro_batch}",
            f"args.gradient_accumulation_steps={settings.accumulation}",
        ]
    if plan(shape, settings, accelerator).peak > room and not settings.checkpointed:
        settings = replace(settings, checkpointed=True)
        others.append("args.gradient_checkpointing=true")
    if plan(shape, settings, accelerator).peak > room and not settings.lora:
        settings = replace(settings, lora=True, frozen_copies=0)
        shape = replace(shape, trained=int(shape.parameters * ADAPTER))
        others.append("peft.r=16")
    return batch + others, plan(shape, settings, accelerator)
