"""MAML with LoRA on a small language model: the problems, the inner step by hand, learning, what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from classic_metarl.gradient.lora import load_learner
from classic_metarl.inner.gradient_steps import parameters_of
from classic_metarl.problems.operations import IGNORED, Operations, key_of, pairs_of, result
from mrt.errors import ConfigError
from mrt.reasoning.models.tiny import save_tiny
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = (
    "args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.per_device_train_batch_size=2",
    "problems.shots=4", "problems.queries=4", "args.inner_steps=2", "args.logging_steps=1", "args.warmup_steps=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model", hidden=32, layers=1, heads=2)


def recipe_of(model: Path, *overrides: str) -> Any:
    return load_recipe("gradient/lora", [*QUICK, f"model={model}", *overrides])


def trainer_of(model: Path, folder: Path, *overrides: str) -> Any:
    recipe = recipe_of(model, *overrides)
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def batch(trainer: Any, tasks: int = 2) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    trials = trainer.collect([trainer.family.sample(3, i) for i in range(tasks)])
    return trainer.sets(trials)


# ---- the problems


def test_an_example_is_a_trace_whose_next_token_is_the_result(tiny: Path) -> None:
    family = Operations(AutoTokenizer.from_pretrained(tiny), shots=3, queries=2)
    task = family.sample(0, 0)
    ids, labels = family.examples([task])
    assert ids.shape == labels.shape == (1, 5, 10)
    for (a, b, third, target), (question, answer), row, label in zip(
        task.data["x"].tolist(), family.texts(task), ids[0], labels[0], strict=True
    ):
        numbers = " ".join(map(str, sorted((a, b, third))))
        assert question == f"<|user|>{numbers}->{target}<think>{a}/{b}="
        assert family.tokenizer.decode(row) == question
        assert answer == str(result(task.data["op"], a, b))
        assert label[:-1].eq(IGNORED).all()
        assert family.tokenizer.decode(label[-1:]) == answer
    assert len({tuple(pair) for pair in task.data["x"][:, :2].tolist()}) == 5  # no query stands in the support set


def test_operations_mean_what_they_say_and_splits_share_none(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert result((2, -1, 3), 7, 5) == 12
    assert pairs_of((1, -2, 0), 3) == [(2, 1), (3, 1)]
    train, test = (set(Operations(tokenizer, split=split).operations) for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 3 * 5 * 11
    assert len(test) > 15
    drawn = {Operations(tokenizer, split="test").sample(0, i).data["op"] for i in range(30)}
    assert drawn <= test
    assert key_of((1, -2, 0)) == "operation:1,-2,0"
    with pytest.raises(ConfigError, match="has 0 pairs"):
        Operations(tokenizer, high=2)


def test_losses_and_scores_by_hand(tiny: Path) -> None:
    family = Operations(AutoTokenizer.from_pretrained(tiny), shots=1, queries=1)
    logits = torch.zeros(2, 3, 4)
    logits[0, 2, 1] = 3.0
    targets = torch.tensor([[IGNORED, IGNORED, 1], [IGNORED, 0, 2]])
    found = family.losses(logits, targets)
    first = -torch.log_softmax(logits[0, 2], 0)[1].item()
    assert found.tolist() == pytest.approx([first, torch.tensor(4.0).log().item()])
    assert family.scores(logits, targets).tolist() == [1, 0]


# ---- the learner


@pytest.mark.parametrize("order", ["second", "first"])
def test_vmap_and_the_loop_agree_and_only_adapters_move(order: str, tiny: Path, tmp_path: Path) -> None:
    learners = [trainer_of(tiny, tmp_path, f"args.over={over}", f"args.order={order}") for over in ("vmap", "loop")]
    grads, losses = [], []
    for trainer in learners:
        with torch.no_grad():  # away from B = 0, where half of the gradients are none
            source = torch.Generator().manual_seed(0)
            for parameter in trainer.model.adapters.values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
        stages, query = batch(trainer)
        loss = trainer.model(stages, query).mean()
        loss.backward()
        losses.append(loss.item())
        grads.append([p.grad for p in trainer.model.parameters()])
        assert all(p.grad is None for p in trainer.model.lm.parameters())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))
    assert all("lora_" in name for name in learners[0].model.theta.parameters)


def test_an_inner_step_is_gradient_descent_of_the_peft_model(tiny: Path, tmp_path: Path) -> None:
    """Against plain autograd on the model itself, one step of each task by itself."""
    learner = trainer_of(tiny, tmp_path, "args.inner_steps=1", "args.learn_rates=false", "args.inner_rate=0.3").model
    names = list(learner.theta.parameters)
    stages, _ = batch(trainer_of(tiny, tmp_path, "args.inner_steps=1"))
    phi = learner.steps.trajectory(learner.theta, stages)[-1]
    for task in range(2):
        parts = [learner.lm.get_parameter(name).requires_grad_() for name in names]
        x, y = (part[task] for part in stages[0])
        logits = learner.lm(input_ids=x).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORED)
        slopes = torch.autograd.grad(loss, parts)
        for name, part, slope in zip(names, parts, slopes, strict=True):
            assert torch.allclose(phi[name][task], part - 0.3 * slope, atol=1e-6), name


def test_training_resume_and_what_is_saved(tiny: Path, tmp_path: Path) -> None:
    options = ("args.max_steps=4", "args.save_strategy=steps", "args.save_steps=2", "args.learning_rate=0.01")
    whole = trainer_of(tiny, tmp_path / "whole", *options)
    before = [p.detach().clone() for p in whole.model.lm.parameters()]
    start = [p.detach().clone() for p in whole.model.parameters()]
    whole.train()
    assert all(torch.equal(a, b) for a, b in zip(before, whole.model.lm.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(start, whole.model.parameters(), strict=True))
    resumed = trainer_of(tiny, tmp_path / "resumed", *options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    pairs = zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert not [name for name in whole.model.state_dict() if "lora" not in name]
    logged = [row for row in whole.state.log_history if "regret/stop" in row]
    assert len(logged) == 4
    whole.save_model(str(tmp_path / "whole" / "model"))
    loaded = load_learner(tmp_path / "whole", recipe_of(tiny), split="test")
    assert loaded.family.split == "test"  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), whole.model.parameters(), strict=True))


def test_the_adapter_loads_in_peft(tiny: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learner = trainer_of(tiny, tmp_path).model
    with torch.no_grad():
        for parameter in learner.adapters.values():
            parameter.add_(0.1)
    learner.save_adapter(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager")
    ids = torch.arange(4, 12)[None]
    again = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))(input_ids=ids).logits
    phi = parameters_of(learner.lm) | learner.theta.parameters
    assert torch.allclose(again, learner.logits(phi, ids), atol=1e-5)


def test_mistakes_in_a_recipe_are_told(tiny: Path, tmp_path: Path) -> None:
    for override, message in (
        ("problems.shotz=3", "did you mean 'shots'"),
        ("problems.name=sinusoid", "adapts to problems"),
        ("model=", "needs a model"),
        (f"model={tmp_path}/nothing", "cannot be loaded"),
        ("args.over=fold", "one by one"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer_of(tiny, tmp_path, override)
