"""Siamese networks, the neural statistician and the memory for rare events: by hand, and what each learns from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.black_box.rare_events import MARGIN, RareEventsNetwork
from classic_metarl.black_box.siamese import SiameseNetwork, best_of_class
from classic_metarl.black_box.statistician import Statistician
from mrt.runs.recipe import import_trainer, load_recipe

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.logging_steps=20")
SMALL = ("problems.classes=40", "problems.size=16", "problems.query=3", "args.max_steps=60")


def learner(name: str, folder: Path) -> Any:
    recipe = load_recipe(f"gradient/strokes/{name}", [*QUICK, *SMALL])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder).model


def test_the_best_of_each_class() -> None:
    values = torch.tensor([[[1.0, 5.0, 3.0, 4.0]]])
    assert best_of_class(values, torch.tensor([[0, 1, 0, 2]]), 3).tolist() == [[[3.0, 5.0, 4.0]]]


def test_siamese_pairs_by_hand(tmp_path: Path) -> None:
    """Weight -2 on every distance of two sigmoids, bias 1."""
    one: SiameseNetwork = learner("siamese", tmp_path)
    with torch.no_grad():
        one.same.weight.fill_(-2.0)
        one.same.bias.fill_(1.0)
    images = torch.rand(1, 3, 1, 16, 16)
    support, labels = images[:, :2], torch.tensor([[0, 1]])
    said = one.pairs((support, labels), images)
    said = said.detach()
    assert float(said[0, 0, 0]) == pytest.approx(1.0, abs=1e-5), "an image is as near to itself as can be"
    from classic_metarl.inner.task_networks import embed

    features = torch.sigmoid(embed(one.net, images))[0]
    assert float(said[0, 2, 1]) == pytest.approx(1 - 2 * float((features[2] - features[1]).abs().sum()), abs=1e-4)
    query = (images[:, 2:], torch.tensor([[1]]))
    same, other = torch.sigmoid(said[0, 2, 1]), torch.sigmoid(said[0, 2, 0])
    hand = -0.5 * (same.log() + (1 - other).log())
    assert float(one([(support, labels)], query)) == pytest.approx(float(hand), abs=1e-4)


class Given(RareEventsNetwork):
    """Keys and queries are the inputs themselves."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.family = type("Ways", (), {"ways": 3})()

    def queries(self, x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)


def test_the_memory_merges_what_it_knows_and_adds_what_it_does_not() -> None:
    net, diagonal = Given(), 1 / math.sqrt(2)
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]]])
    memory = net.remember((x, torch.tensor([[0, 1, 0, 2]])))
    assert memory.values.tolist() == [[0, 1, -1, 2]], "the third was known: its key moved the first"
    moved = torch.nn.functional.normalize(torch.tensor([1.8, 0.6]), dim=0)
    assert torch.allclose(memory.keys[0, 0], moved)
    query = torch.tensor([[[1.0, 1.0]]])
    said = net.answer((x, torch.tensor([[0, 1, 0, 2]])), query)
    assert said[0, 0].argmax() == 0
    near, far = float(moved.sum()) * diagonal, diagonal
    loss = net([(x, torch.tensor([[0, 1, 0, 2]]))], (query, torch.tensor([[1]])))
    assert float(loss) == pytest.approx(near - far + MARGIN, abs=1e-5)
    right = net([(x, torch.tensor([[0, 1, 0, 2]]))], (torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1]])))
    assert float(right) == 0.0, "farther than the margin from any wrong one"


def test_the_statistician_s_bound_and_contexts(tmp_path: Path) -> None:
    one: Statistician = learner("statistician", tmp_path)
    features = torch.randn(1, 4, one.net.features)
    member = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]])
    whole = one.contexts(features, member)
    swapped = one.contexts(features[:, [1, 0, 3, 2]], member)
    assert torch.allclose(whole.base_dist.loc, swapped.base_dist.loc, atol=1e-6), "a set has no order"
    x, y = torch.rand(1, 10, 1, 16, 16), torch.arange(5).repeat(2)[None]
    said = one.answer((x[:, :5], y[:, :5]), x[:, :5])
    assert torch.allclose(said.diagonal(dim1=1, dim2=2), torch.zeros(1, 5), atol=1e-4), "KL 0 to its own context"
    assert float(said.amax()) < 1e-4
    with torch.no_grad():  # nothing inferred, nothing decoded: pixels cost log 2 each, and divergences are 0
        for part in (one.context, one.infer, one.prior, one.decode):
            part[2].weight.zero_()
            part[2].bias.zero_()
    bound = one([(x[:, :5], y[:, :5])], (x[:, 5:], y[:, 5:]))
    assert torch.allclose(bound, torch.full((1, 10), 256 * math.log(2)), atol=1e-2)


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("siamese", 0.4), ("rare_events", 0.5), ("statistician", 0.3)])
def test_rows_learn(name: str, least: float, tmp_path: Path, learning: Any) -> None:
    from classic_metarl.problems.families import problem_family
    from classic_metarl.trainers.loss_curves import loss_curve

    changed = ("args.max_steps=300", f"seed={learning.seed()}")
    recipe = load_recipe(f"gradient/strokes/{name}", [*QUICK, *SMALL, *changed])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)
    trainer.train()
    family = problem_family(**{**recipe.problems, "split": "test", "query": 5})
    accuracy = -loss_curve(trainer.model, family, 100, None).mean(0)
    learning.check("accuracy, chance .2", accuracy[-1], above=least)
