"""Whether an engine's context holds what a run asks of it."""

from __future__ import annotations

from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.traces.prompts import ThinkFormat

LOOKED_AT = 256  # prompts of the training data


def check_context(trainer: Any, fmt: ThinkFormat) -> None:
    """A probe at the end of the longest trace needs room for the forced close and its answer.

    Raises:
        ConfigError: when `vllm_max_model_length` is too short for that; vLLM would fail in the middle of a run.
    """
    limit = trainer.args.vllm_max_model_length if trainer.args.use_vllm else None
    if limit is None:
        return
    count = min(LOOKED_AT, len(trainer.train_dataset))
    prompts, _, _ = trainer._tokenize_prompts([trainer.train_dataset[i]["prompt"] for i in range(count)])
    probing = trainer.args.probe != "none" or trainer.args.rollout == "mixed"
    answer = len(fmt.forced_ids) + fmt.max_answer_tokens if probing else 0
    needed = max(map(len, prompts)) + int(trainer.max_completion_length or 0) + answer
    if needed > limit:
        raise ConfigError(
            f"vllm_max_model_length={limit} is too short: the longest of the first {count} prompts, "
            f"max_completion_length={trainer.max_completion_length} and a forced answer of up to {answer} tokens take "
            f"{needed}. Cure: vllm_max_model_length={needed} or more, or a smaller max_completion_length"
        )
