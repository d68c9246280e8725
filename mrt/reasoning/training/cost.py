"""What a run has cost in positions through the model: as checkpointable state, and as the end of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from mrt.reasoning.training.trainer import MRTTrainer


class CostLimit(TrainerCallback):
    """Ends the training once the run has cost so much: arms are compared at equal cost."""

    def __init__(self, trainer: MRTTrainer, limit: float) -> None:
        self.trainer, self.limit = trainer, limit

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.cost()["total"] >= self.limit:
            control.should_training_stop = True


class CostState:
    """The counters of a trainer as checkpointable state."""

    def __init__(self, trainer: MRTTrainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer.rollout is not None
        return {"updated": self.trainer.updated, "guarded": self.trainer._guarded, **self.trainer.rollout.cost}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert self.trainer.rollout is not None
        self.trainer.updated, self.trainer._guarded = state["updated"], state["guarded"]
        self.trainer.rollout.cost.update(sampled=state["sampled"], probed=state["probed"])
