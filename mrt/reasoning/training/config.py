"""The arguments of `MRTTrainer`: TRL's own, and what MRT adds. Defaults are the vetted setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from mrt.credit.guard import check_construction
from mrt.credit.progress import BONUS_SCALES, DENOISE
from mrt.credit.table import Credit, make_credit
from mrt.errors import ConfigError, nearest
from mrt.reasoning.models.loading import fill_precision
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.probes.table import PROBES, SAMPLING
from mrt.reasoning.training.honoured import check_honoured
from mrt.reasoning.training.taught import check_taught
from mrt.runs.plan import MAX_POSITIONS
from mrt.training.mixin import TrialArguments

ROLLOUTS = ("plain", "probed", "mixed")
HELD_OUT = ("auto", "reference", "none")
BOUNDARIES = 6  # of a trace whose probe samples: each costs several answers
NEEDS_STOP_VALUES = ("progress", "brpo", "vineppo")


@dataclass
class MRTConfig(TrialArguments, GRPOConfig):  # type: ignore[misc]  # narrower defaults
    """`trl.GRPOConfig` with the credit, the rollout and the probe of MRT (Qu et al. 2025, 2503.07572).

    `scale_rewards` (group | batch | none), `loss_type`, `beta`, `num_generations` and the rest mean what they mean in
    TRL. With `credit="outcome"` and `rollout="plain"` nothing is probed and the trainer is TRL's GRPO.
    """

    credit: str = field(default="progress", metadata={"help": "outcome | progress | brpo | vineppo | leave_one_out"})
    alpha: float = field(default=1.0, metadata={"help": "weight of the progress bonus"})
    alpha_end: float | None = field(default=None, metadata={"help": "alpha moves linearly to this over training"})
    progress_mode: str = field(
        default="immediate", metadata={"help": "immediate | to-go | discounted | watermark | trace | none"}
    )
    progress_gamma: float = field(default=0.9, metadata={"help": "discount of progress_mode=discounted, per episode"})
    progress_center: str = field(default="none", metadata={"help": "none | depth: centre the bonus by episode index"})
    progress_denoise: str = field(
        default="none", metadata={"help": "none | reliability | smooth: what standard errors do to progress"}
    )
    progress_bonus_scale: str = field(
        default="none", metadata={"help": "none | group: divide progress by its root mean square in the group"}
    )
    progress_late: float = field(
        default=0.0, metadata={"help": "taken off every token behind the first boundary with J of at least .9"}
    )
    outcome_scale: str | None = field(
        default=None, metadata={"help": "mean: divide the outcome by the group's mean (MaxRL); None: scale_rewards"}
    )
    rollout: str = field(default="probed", metadata={"help": "plain | probed | mixed (the paper's group)"})
    probe: str = field(
        default="auto",
        metadata={
            "help": "auto (coupled; sampled with vLLM) | coupled | sampled | pooled | allocated | shrunk | greedy | "
            "gold | reference | learned | learned_alone | continue | none"
        },
    )
    probe_weights: str = field(default="uniform", metadata={"help": "uniform | horvitz_thompson (coupled, sampled)"})
    probe_samples: int = field(default=4, metadata={"help": "forced answers a boundary (G)"})
    probe_tolerance: float = field(default=0.0, metadata={"help": "gold: J may be low by this, for fewer positions"})
    probe_every: int = field(default=1, metadata={"help": "probe every n-th boundary"})
    probe_boundaries: int | None = field(
        default=None,
        metadata={"help": "at most this many boundaries a trace; 0: all; None: 6 where answers are sampled"},
    )
    train_probes: float = field(
        default=0.0, metadata={"help": "train on forced answers too, as many as this share of the traces"}
    )
    probe_share: float = field(default=1.0, metadata={"help": "share of the traces that is probed"})
    probe_moved: float | None = field(
        default=None, metadata={"help": "probe both ends, then only inside intervals over which J moved by more"}
    )
    thinking: str = field(default="auto", metadata={"help": "auto | tags | text: how the model marks its thought"})
    think_tags: list[str] | None = field(default=None, metadata={"help": "your own opening and closing tag"})
    forced_style: str = field(default="short", metadata={"help": "short | paper: the forced close of the prover"})
    answer_tokens: int | None = field(
        default=None,
        metadata={"help": "tokens of a forced answer; None: 128, or 4,096 with forced_style=paper"},
    )
    segmenter: str = field(default="cues", metadata={"help": "cues | paragraphs | blocks"})
    segmenter_options: dict[str, Any] | None = field(default=None, metadata={"help": "options of the segmenter"})
    max_cost: float | None = field(
        default=None, metadata={"help": "stop after so many positions (sampled 1, probed 1, updated 3 each)"}
    )
    thinking_budget: int | None = field(
        default=None, metadata={"help": "probed: tokens of a completion after which the answer is forced"}
    )
    train_forced: bool = field(default=False, metadata={"help": "mixed: credit the forced rows' answer tokens"})
    prefix_max_age: int = field(default=0, metadata={"help": "mixed: steps that a stale prefix may be reused for"})
    eval_problems: int = field(
        default=64,
        metadata={"help": "with eval_strategy: the last problems of the train split, which are not trained on"},
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "evaluations without a better metric_for_best_model after which a run ends"}
    )
    held_out_prover: str = field(default="auto", metadata={"help": "auto | reference | none: the gaming watch"})
    sync_tolerance: float | None = field(
        default=None, metadata={"help": "vLLM: nats a token that engine and weights may differ by; None: by precision"}
    )
    sync_check_every: int = field(
        default=1, metadata={"help": "vLLM: the canary looks after every n-th synchronisation, 0: never"}
    )
    max_positions: int = field(
        default=MAX_POSITIONS, metadata={"help": "keys and values at work at one time while sampling, of all rows"}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 mixed precision; None: on a GPU that can"}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "recompute activations; None: on a GPU"}
    )
    watch_every: int = field(default=10, metadata={"help": "steps between two looks by the held-out prover"})

    def __post_init__(self) -> None:
        if self.probe == "auto":  # not every vLLM can draw several answers with the same random numbers
            self.probe = "sampled" if self.use_vllm else "coupled"
        fill_precision(self)
        if self.max_positions < 1 or self.sync_check_every < 0:
            raise ConfigError("max_positions must be at least 1 and sync_check_every at least 0")
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise ConfigError(f"answer_tokens={self.answer_tokens} must be at least 1")
        for name, valid in (
            ("rollout", ROLLOUTS),
            ("probe", (*PROBES, "continue", "none")),
            ("held_out_prover", HELD_OUT),
            ("credit", ("outcome", "leave_one_out", *NEEDS_STOP_VALUES)),
        ):
            if getattr(self, name) not in valid:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not possible here; {nearest(getattr(self, name), valid)}"
                )
        if self.needs_stop_values and (self.rollout == "plain" or self.probe == "none"):
            raise ConfigError(
                f"credit='{self.credit}' needs stop values, but rollout='{self.rollout}' with probe='{self.probe}' "
                "measures none. Cure: rollout='probed' and probe='coupled' or 'gold'"
            )
        self._check_probes()
        if self.thinking_budget is not None:
            if self.rollout != "probed":
                raise ConfigError("thinking_budget needs rollout='probed' (with probe='none' to measure nothing)")
            if not 0 < self.thinking_budget < int(self.max_completion_length or 0) - 8:
                raise ConfigError(
                    f"thinking_budget={self.thinking_budget} has to leave room for an answer within "
                    f"max_completion_length={self.max_completion_length}"
                )
        scores = self.probe in ("gold", "pooled", "reference")
        if scores and self.forced_style == "paper" and self.rollout != "plain":
            raise ConfigError(
                f"probe='{self.probe}' scores answers right behind the forced close, where forced_style='paper' writes "
                "steps first. Cure: forced_style='short', or probe='coupled'"
            )
        if self.credit == "progress" and self.bonus:
            check_construction(self.progress_mode, mixed=self.rollout == "mixed")
        check_honoured(self)
        check_taught(self)
        self._check_evaluation()
        super().__post_init__()

    def _check_probes(self) -> None:
        for name, valid in (("progress_denoise", DENOISE), ("progress_bonus_scale", BONUS_SCALES)):
            if getattr(self, name) not in valid:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; {nearest(getattr(self, name), valid)}")
        going_on = (self.probe == "continue", self.credit == "vineppo")
        if any(going_on) and not (all(going_on) and self.rollout == "probed" and not self.use_vllm):
            raise ConfigError(
                "credit='vineppo' is made of values under going on, which only probe='continue' measures, and no other "
                "credit takes them: set both, with rollout='probed' and use_vllm=false"
            )
        if self.outcome_scale not in (None, "mean") or (self.outcome_scale and self.rollout == "plain"):
            raise ConfigError(
                "outcome_scale is 'mean' or None (scale_rewards decides then), and needs rollout='probed'"
            )
        if self.progress_denoise != "none" and self.probe not in ("sampled", "shrunk"):
            raise ConfigError(
                f"progress_denoise='{self.progress_denoise}' takes errors of neighbouring boundaries as independent, "
                f"which they are not with probe='{self.probe}'. Cure: probe='sampled', or progress_denoise='none'"
            )
        if not 0 < self.probe_share <= 1 or self.probe_every < 1 or (self.probe_boundaries or 2) < 2:
            raise ConfigError(
                "probe_share lies in (0, 1], probe_every is at least 1, probe_boundaries at least 2 (0: all)"
            )
        if self.probe_moved is not None and (
            self.probe_moved < 0 or self.schedule() != Schedule(share=self.probe_share, moved=self.probe_moved)
        ):
            raise ConfigError("probe_moved is at least 0 and goes without probe_every and probe_boundaries")

    def _check_evaluation(self) -> None:
        if self.early_stopping_patience is not None and (
            self.early_stopping_patience < 1 or not (self.load_best_model_at_end and self.metric_for_best_model)
        ):
            raise ConfigError(
                "early_stopping_patience is at least 1 and goes with load_best_model_at_end=true and "
                "metric_for_best_model (accuracy, regret/normalised, reward, ...)"
            )
        if self.eval_problems < 1:
            raise ConfigError(f"eval_problems={self.eval_problems} must be at least 1")

    @property
    def thinking_room(self) -> int:
        """Tokens that a thought may have at most."""
        return int(self.thinking_budget or self.max_completion_length or 1)

    @property
    def bonus(self) -> bool:
        """Whether a progress bonus is ever added."""
        return self.credit == "progress" and (self.alpha != 0 or bool(self.alpha_end))

    @property
    def needs_stop_values(self) -> bool:
        """Whether the credit reads J."""
        return self.bonus or self.credit in ("brpo", "vineppo")

    def make_credit(self) -> Credit:
        """The credit with its options; its scaling of the outcome is TRL's `scale_rewards`."""
        if self.credit == "progress":
            return make_credit(
                "progress",
                alpha_end=self.alpha_end,
                alpha=self.alpha,
                mode=self.progress_mode,
                gamma=self.progress_gamma,
                center=self.progress_center,
                unmeasured="zero" if self.schedule() == Schedule(share=self.probe_share) else "spread",
                scale=self.outcome_scale or self.scale_rewards,
                denoise=self.progress_denoise,
                bonus_scale=self.progress_bonus_scale,
                late=self.progress_late,
            )
        scale = {"scale": self.outcome_scale or self.scale_rewards}
        options: dict[str, Any] = scale if self.credit == "outcome" else {}
        return make_credit(self.credit, **options)

    def schedule(self) -> Schedule:
        """Which boundaries of which traces are probed."""
        at_most = self.probe_boundaries
        if at_most is None and self.probe in (*SAMPLING, "continue") and self.probe_moved is None:
            at_most = BOUNDARIES
        return Schedule(self.probe_every, at_most or None, self.probe_share, self.probe_moved)
