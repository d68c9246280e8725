"""What gates measure of LOLA, of continuous adaptation and of adapters, on runs that are hardly trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model

from classic_metarl.gradient.lola import Players
from evals.gates import adapters, continuous, lola
from mrt.reasoning.models.tiny import save_tiny
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no")


def test_payoffs_of_tit_for_tat_and_of_defectors(tmp_path: Path) -> None:
    recipe, players = load_recipe("gradient/lola", QUICK), Players()
    names = ["joint", "one", "two", "c_start", "c_cc", "c_cd", "c_dc", "c_dd"]
    (tmp_path / "model").mkdir()
    for logits, joint in (([40.0, 40, -40, 40, -40], -1), ([-40.0] * 5, -2)):
        with torch.no_grad():
            for parameter in players.parameters():
                parameter.copy_(torch.tensor(logits))
        save_model(players, str(tmp_path / "model" / "model.safetensors"))
        found = lola.payoffs(tmp_path, recipe, 1, names)
        assert [found[name].mean for name in names[:3]] == pytest.approx([joint] * 3, abs=1e-4)
        assert [found[name].mean for name in names[3:]] == pytest.approx([float(x > 0) for x in logits])
        assert (found["joint"].floor, found["joint"].ceiling) == (-1.5, -1.0)


def test_a_chain_is_measured_beside_no_adaptation_and_rl2(tmp_path: Path) -> None:
    small = ("tasks.stages=3", "tasks.each=2", "tasks.steps=4", "args.max_steps=2", "args.episodes=2", "args.epochs=1")
    recipe = load_recipe("gradient/continuous", [*QUICK, *small, "args.per_device_train_batch_size=4"])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)  # type: ignore[attr-defined]
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    names = ["chain", "static", "rl2", "over_static", "over_rl2", "stage_0", "stage_2"]
    found = continuous.chain(tmp_path, recipe, 6, names)
    assert list(found) == names
    for name in ("static", "rl2"):
        assert found[f"over_{name}"].mean == pytest.approx(found["chain"].mean - found[name].mean, abs=1e-6)
    chain = found["chain"]
    assert chain.floor is not None
    assert chain.ceiling is not None
    assert chain.floor < chain.ceiling


def test_adapters_are_measured_beside_new_ones_at_their_best_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without an update is a set of new adapters: at equal steps and at its own rate the two are one."""
    base = save_tiny(tmp_path / "base", hidden=32, layers=1, heads=2)
    small = ("args.per_device_train_batch_size=2", "args.inner_steps=2", "args.learn_rates=false", "args.max_steps=1")
    recipe = load_recipe("gradient/lora", [*QUICK, *small, f"model={base}", "problems.shots=4", "problems.queries=4"])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)  # type: ignore[attr-defined]
    (tmp_path / "model").mkdir()
    save_model(trainer.model, str(tmp_path / "model" / "model.safetensors"))
    monkeypatch.setattr(adapters, "RATES", (recipe.args["inner_rate"],))
    monkeypatch.setattr(adapters, "CHOSEN_ON", 2)
    names = ["over_plain", "score_2", "score_0", "plain_2", "plain_0"]
    found = adapters.unseen_operations(tmp_path, recipe, 3, names)
    assert sorted(found) == sorted(names)
    assert found["score_2"].mean == found["plain_2"].mean
    assert (found["over_plain"].mean, found["over_plain"].se) == (0.0, 0.0)
    assert found["score_0"].floor == found["score_0"].mean == found["plain_0"].mean
    assert found["score_2"].ceiling == 1.0
