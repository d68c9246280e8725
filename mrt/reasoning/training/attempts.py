"""A language model that learns across attempts: the policy gradient on trials in text.

A trial is several attempts at one task with the environment's text between them (`mrt.reasoning.attempts`); credits are
those of every other trial. With `credit: attempt_returns` this is LaMer's objective (2512.16848), RL2 with a language
model; with `credit: progress` each attempt is also paid for what it changes in J, what an attempt made now would earn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.optim.surrogate import surrogate
from mrt.reasoning.attempts.form import Form
from mrt.reasoning.attempts.manner import Manner, make_manner
from mrt.reasoning.attempts.probes import make_probe
from mrt.reasoning.attempts.rollout import AttemptRollout
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.passes import Passes
from mrt.reasoning.engines.sampling import shaped
from mrt.reasoning.models.loading import pad_id
from mrt.reasoning.training.attempts_config import AttemptsConfig
from mrt.reasoning.training.cost import CostLimit, weighed
from mrt.runs.recipe import Recipe
from mrt.text_tasks import TextTasks, make_text_tasks
from mrt.trainer import TrialTrainer
from mrt.training.collection import Batch, Collection
from mrt.trials import Trials


class AttemptsTrainer(TrialTrainer):
    """Policy gradients on trials in text.

    Args:
        model: a causal LM, or one that peft has wrapped.
        tasks: what keeps `mrt.text_tasks.TextTasks`.
        tokenizer: the model's.

    Raises:
        ConfigError: where the tokenizer cannot write the tasks, and for sharded weights.
    """

    args: AttemptsConfig
    tasks: TextTasks
    rows_written = 8

    def __init__(self, model: Any, args: AttemptsConfig, tasks: TextTasks, tokenizer: Any, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, args.make_credit(), processing_class=tokenizer, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ConfigError("trials in text are sampled from whole weights: use one process or DDP")
        context = getattr(self.unwrapped.config, "max_position_embeddings", None)
        self.manner: Manner = make_manner(
            Form(tokenizer, args.style, args.thinking),
            tasks,
            choose=args.choose,
            temperature=args.temperature,
            limit=args.action_tokens,
            context=min(filter(None, (context, args.max_trial_tokens)), default=None),
        )
        self.pad = pad_id(tokenizer)
        self.collection = Collection(args.device)
        self.register_state("collection", self.collection)
        if args.max_cost is not None:
            self.add_callback(CostLimit(lambda: weighed(self.cost)["total"], args.max_cost))

    @classmethod
    def args_class(cls) -> type:
        return AttemptsConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> AttemptsTrainer:
        """The trainer that a recipe describes: its tasks, its model (`tiny` builds the small one) and its adapter."""
        from mrt.reasoning.models.adapters import learning_model
        from mrt.reasoning.models.tiny import save_tiny

        args = recipe.build_args(cls.args_class(), output_dir)
        tasks = make_text_tasks(recipe.tasks)
        path = recipe.model
        if path == "tiny":
            shape = {"hidden": args.tiny_hidden, "layers": args.tiny_layers, "heads": args.tiny_heads}
            path = str(save_tiny(output_dir / "tiny", recipe.seed, **shape))
        model, tokenizer = learning_model(path, recipe.peft)
        return cls(model, args, tasks, tokenizer)

    # Collecting.

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """The next minibatch; plays new trials on the tasks at `indices` when the last collection is used up."""
        if not self.collection:
            with torch.no_grad():
                trials = self.play(indices)
            self.record(trials)
            self.log_total("cost/total", weighed(self.cost)["total"])
            self.collection.fill(Batch(trials, self.weigh(trials)), self.args.epochs, self.args.minibatches)
        return self.collection.next()

    def play(self, indices: Sequence[int]) -> Trials:
        """`trials_per_task` trials on each task, one group a task."""
        engine = engine_on(self.unwrapped, self.pad, self.args.max_positions)
        rollout = AttemptRollout(engine, self.manner, make_probe(self.args.probe, self.args.probe_samples), self.pad)
        each = self.args.trials_per_task
        tasks = [task for index in indices for task in [self.tasks.sample(self.args.seed, index)] * each]
        trials = rollout(
            self.tasks,
            tasks,
            seed=int(torch.randint(2**31, (1,))),
            group=torch.arange(len(indices)).repeat_interleave(each),
            task=torch.tensor(list(indices)).repeat_interleave(each),
        )
        self._watch(trials)
        return trials.to(self.args.device)

    def _watch(self, trials: Trials) -> None:
        """Share of unreadable actions, and how many attempts trials had."""
        self.log_metric("unread", float(trials.privileged["unread"].mean()))
        self.log_metric("attempts", float(trials.episodes.float().mean()))
        self.log_metric("solved", float((trials.trial_stop == 0).float().mean()))

    # Learning.

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """PPO's clipped surrogate (or the plain policy gradient) and the entropy, means over the tokens in `mask`."""
        mask = batch.trials.mask
        logprobs, entropy = self._chosen(batch.trials)
        assert batch.trials.logprobs is not None
        change = logprobs - batch.trials.logprobs[mask]
        ratio = torch.exp(change)
        gain = surrogate(ratio, batch.weights[mask], self.args.clip).mean()
        entropy = entropy.mean()
        with torch.no_grad():
            self.log_metric("entropy", float(entropy))
            self.log_metric("kl", float((ratio - 1 - change).mean()))
        self.cost.add(updated=float(self._positions(batch.trials).sum()))
        return {"policy": -gain - self.entropy_weight * entropy}

    def logprobs(self, trials: Trials) -> Tensor:
        """(B, T) log-probabilities of the chosen tokens as they are drawn, 0 elsewhere; with gradients."""
        table = torch.zeros_like(trials.rewards)
        table[trials.mask] = self._chosen(trials)[0]
        return table

    @property
    def entropy_weight(self) -> float:
        """The weight of the entropy now."""
        start, end = self.args.entropy, self.args.entropy_end
        done = self.state.global_step / max(self.state.max_steps, 1)
        return start if end is None else start + (end - start) * done

    def _chosen(self, trials: Trials) -> tuple[Tensor, Tensor]:
        """(N,) log-probabilities of the tokens in `mask`, row by row, and entropies of what they were drawn from.

        One pass over whole trials, padded on the right, where a causal model does not look; the head runs where a token
        was chosen and nowhere else.
        """
        rows, columns = trials.mask.nonzero(as_tuple=True)
        passes = Passes(self.unwrapped)
        passes.model = self.model_wrapped  # gradients are synchronised by what wraps it
        width = int(columns.max()) + 1
        inputs = {"input_ids": trials.inputs["input_ids"][:, :width], "use_cache": False}
        logits = passes.logits(rows, columns, **inputs).float()
        actions = trials.actions[rows, columns]
        sampling = self.manner.sampling
        if sampling.allowed:  # only their columns: the others have no chance
            allowed = torch.tensor(sampling.allowed, device=logits.device)
            logits = logits[:, allowed] / sampling.temperature
            actions = (actions[:, None] == allowed).long().argmax(1)
        else:
            logits = shaped(logits, sampling)
        table = logits.log_softmax(-1)
        entropy = -(table.exp() * table.clamp(min=-1e4)).sum(-1)
        return table.gather(1, actions[:, None])[:, 0], entropy

    def _positions(self, trials: Trials) -> Tensor:
        """(B,) tokens of each trial that run in an update: up to the last one that was chosen."""
        steps = torch.arange(1, trials.mask.shape[1] + 1, device=trials.mask.device)
        return (trials.mask * steps).amax(1)
