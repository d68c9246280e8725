"""Which arguments of TRL's GRPO hold for which rollout, credit and vLLM: what would be ignored is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.probes.table import SAMPLING

# Beyond temperature, top-p and top-k: TRL's own generation knows them, our engines do not.
SHAPING: dict[str, Any] = {
    "min_p": None,
    "repetition_penalty": 1.0,
    "generation_kwargs": None,
    "cache_implementation": None,
    "use_transformers_continuous_batching": False,
    "transformers_continuous_batching_config": None,
    "use_transformers_paged": False,
    "vllm_structured_outputs_regex": None,
}
"""Name -> the value that changes nothing."""

OF_A_SERVER: dict[str, str] = {
    "vllm_tensor_parallel_size": "--tensor-parallel-size",
    "vllm_gpu_memory_utilization": "--gpu-memory-utilization",
    "vllm_model_impl": "--model-impl",
    "vllm_enable_sleep_mode": "--enable-sleep-mode",
}
"""Name -> the option of `vllm serve` that says it there."""

OF_A_CLIENT = ("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_group_port")

SAMPLING_PROBES = (*SAMPLING, "greedy", "continue")


@dataclass(frozen=True)
class Refusal:
    """An argument, when it would be ignored, what to do instead, and the arguments that decide it."""

    name: str
    ignored: Callable[[Any], bool]
    cure: str
    deciding: tuple[str, ...] = ("rollout", "probe", "credit")


def shaped(args: Any) -> list[str]:
    """The arguments set in `args` that shape samples in a way which only TRL's generation knows."""
    return [name for name, neutral in SHAPING.items() if (getattr(args, name, neutral) or neutral) != neutral]


def _engine_samples(args: Any) -> bool:
    """Whether rows or answers are drawn by our engines, which know temperature, top-p and top-k."""
    forces = args.rollout == "mixed" or args.thinking_budget is not None
    return forces or (args.rollout == "probed" and args.probe in SAMPLING_PROBES)


def _shaping(name: str) -> Refusal:
    return Refusal(
        name,
        lambda args: name in shaped(args) and _engine_samples(args),
        "our engines draw the answers behind a forced close by temperature, top_p and top_k alone. "
        "Cure: rollout=probed with probe=gold or none and no thinking_budget, or rollout=plain",
    )


def _differs(args: Any, name: str) -> bool:
    """Whether an argument was given: has another value than its default."""
    return bool(getattr(args, name) != next(one.default for one in fields(args) if one.name == name))


def _of_a_server(name: str) -> Refusal:
    return Refusal(
        name,
        lambda args: args.use_vllm and args.vllm_mode == "server" and _differs(args, name),
        f"a server is started with its own. Cure: `vllm serve ... {OF_A_SERVER[name]}`, or vllm_mode=colocate",
        ("use_vllm", "vllm_mode"),
    )


def _of_a_client(name: str) -> Refusal:
    return Refusal(
        name,
        lambda args: args.use_vllm and args.vllm_mode == "colocate" and _differs(args, name),
        "vLLM would run in the training process and ask no server. Cure: vllm_mode=server",
        ("use_vllm", "vllm_mode"),
    )


def _no_thought(args: Any) -> bool:
    kwargs = args.chat_template_kwargs or {}
    return args.rollout != "plain" and any(kwargs.get(name) is False for name in ("enable_thinking", "thinking"))


REFUSALS = (
    *map(_shaping, SHAPING),
    *map(_of_a_server, OF_A_SERVER),
    *map(_of_a_client, OF_A_CLIENT),
    Refusal(
        "label_smoothing_factor",
        lambda args: args.label_smoothing_factor != 0,
        "the loss of a policy gradient has no labels. Cure: entropy_coef, to keep the policy from becoming certain",
    ),
    Refusal(
        "train_sampling_strategy",
        lambda args: args.train_sampling_strategy != "random",
        "TRL draws prompts in groups by a sampler of its own. Cure: shuffle_dataset=false keeps their order",
    ),
    Refusal(
        "multi_objective_aggregation",
        lambda args: args.multi_objective_aggregation != "sum_then_normalize" and args.credit != "outcome",
        "every credit but 'outcome' weighs the sum of the rewards. Cure: credit=outcome",
    ),
    Refusal(
        "use_liger_kernel",
        lambda args: args.use_liger_kernel and args.credit != "outcome",
        "its loss takes one advantage a row, and this credit gives one a token. Cure: credit=outcome",
    ),
    Refusal(
        "loss_type",
        lambda args: args.loss_type == "luspo" and args.credit != "outcome",
        "luspo takes one advantage a row, and this credit gives one a token. Cure: credit=outcome, or another loss",
    ),
    Refusal(
        "chat_template_kwargs",
        _no_thought,
        "the prompt would close the thought, and there would be no episode to probe. Cure: rollout=plain",
    ),
)


def check_honoured(args: Any) -> None:
    """Refuses arguments that would have no effect.

    Raises:
        ConfigError: naming the argument, why it would be ignored, and the cure.
    """
    for refusal in REFUSALS:
        if refusal.ignored(args):
            beside = ", ".join(f"{name}={getattr(args, name)!r}" for name in refusal.deciding)
            raise ConfigError(
                f"{refusal.name}={getattr(args, refusal.name)!r} would be ignored with {beside}: {refusal.cure}"
            )


def check_tools(given: Any, rollout: str) -> None:
    """Raises ConfigError for tools or environments with a rollout that is sampled without them."""
    names = [name for name in ("tools", "environment_factory") if given.get(name)]
    if names and rollout != "plain":
        raise ConfigError(
            f"{names[0]} would be ignored with rollout='{rollout}': a probe knows no tools. rollout=plain"
        )
