"""What gates measure of continuous adaptation: whole chains of tasks that training never saw, beside who does not adapt
and RL2, all trained here on equal environment steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classic_metarl.gradient.continuous import chain_returns
from classic_metarl.trainers.return_curves import load_meta_policy
from evals.gates.measures import Score
from mrt.control.agent import Entrant
from mrt.control.envs import make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.interaction import play
from mrt.control.loading import load_control_policy
from mrt.control.oracles import mean_and_se, task_bounds
from mrt.runs.recipe import Recipe, import_trainer, load_recipe

RL2 = "control/rl2-fading-legs"


def chain(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """Mean return of an episode in all stages but the first: `chain`, `static` (the same policy without adaptation),
    `rl2`; `over_static` and `over_rl2`, the paired gaps; `stage_K` of the chain.
    """
    torch.set_num_threads(1)
    learner, _, args = load_meta_policy(run, recipe)
    dials = {name: value for name, value in recipe.tasks.items() if name not in ("start", "split")}
    held_out = make_tasks(**dials, split="test")
    seed = HELD_OUT + recipe.seed
    ours = chain_returns(learner, held_out, args, tasks, seed)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = int(max(row.get("cost/env_steps", 0) for row in rows))
    still = trained(replace(recipe, args={**recipe.args, "adapt": False, "save_strategy": "no"}), run / "static")
    theirs = chain_returns(still.learner, held_out, still.args, tasks, seed)
    memory = recurrent(recipe, dials, held_out, spent, run / "rl2", tasks)
    bounds = task_bounds(held_out.env, held_out.batch(seed, range(tasks)))
    floor, ceiling = (float(side.mean()) / held_out.env.spec.episodes for side in bounds)
    later = {name: one[:, 1:].mean(1) for name, one in (("chain", ours), ("static", theirs), ("rl2", memory))}
    found = {name: Score(*mean_and_se(one), floor, ceiling) for name, one in later.items()}
    found |= {f"over_{name}": Score(*mean_and_se(later["chain"] - later[name])) for name in ("static", "rl2")}
    found |= {f"stage_{k}": Score(*mean_and_se(ours[:, k])) for k in range(ours.shape[1])}
    return {name: found[name] for name in measures}


def trained(recipe: Recipe, folder: Path) -> Any:
    """The trainer of a recipe after training in `folder`."""
    made: Any = import_trainer(recipe.trainer).from_recipe(recipe, folder)
    made.train()
    return made


def recurrent(recipe: Recipe, dials: dict[str, Any], held_out: Any, spent: int, folder: Path, tasks: int) -> Tensor:
    """(tasks, S) returns of RL2 after as many environment steps, whole chains as trials, acting greedily."""
    plain = load_recipe(RL2, [f"seed={recipe.seed}", "args.save_strategy=no"])
    a = plain.args
    collections = -(-spent // (a["per_device_train_batch_size"] * held_out.env.spec.trial_steps))
    steps = collections * a["epochs"] * a["minibatches"]
    made = trained(replace(plain, tasks={**dials, "split": "train"}, args={**a, "max_steps": steps}), folder)
    made.save_model(str(folder / "model"))
    params = held_out.batch(HELD_OUT + recipe.seed, range(tasks))
    returns = play(held_out.env, Entrant(load_control_policy(folder), greedy=True), params, recipe.seed)
    return returns.unflatten(1, (held_out.env.stages, -1)).mean(2)
