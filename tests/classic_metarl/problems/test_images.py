"""Few-shot classification: the drawn characters, the readers, and every comparison row against what it has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from classic_metarl.baselines.nearest import NearestNeighbour
from classic_metarl.black_box.mann import MANN, State
from classic_metarl.inner.task_networks import ConvNet
from classic_metarl.problems.families import problem_family
from classic_metarl.problems.strokes import stroke_bank
from classic_metarl.trainers.few_shot import split
from classic_metarl.trainers.loss_curves import loss_curve
from mrt.errors import ConfigError, DataError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training


def strokes(**dials: Any) -> Any:
    return problem_family("strokes", **{"shot": 1, "query": 2, "model": "mlp", "classes": 40, "size": 16} | dials)


def test_a_character_is_drawn_alike_and_unlike_the_others() -> None:
    bank = stroke_bank(30, 20)
    assert bank.shape == (30, 20, 1, 20, 20)
    assert bank.min() >= 0
    assert 0.9 < bank.max() <= 1
    assert torch.equal(bank[:10], stroke_bank(10, 20)), "a character does not depend on how many there are"
    flat = bank.flatten(2)
    within = torch.cdist(flat[:, :10], flat[:, 10:]).mean()
    between = torch.cdist(flat[:-1, :10], flat[1:, 10:]).mean()
    assert within < 0.9 * between
    assert (bank[:, 0] != bank[:, 1]).flatten(1).any(1).all(), "no drawing is a copy"
    with pytest.raises(ConfigError, match="size=4 at least 8"):
        stroke_bank(3, 4)


def test_episodes_hold_what_they_should() -> None:
    family = strokes(ways=4, shot=3)
    tasks = [family.sample(0, index) for index in range(20)]
    x, y = family.examples(tasks)
    assert x.shape == (20, 20, 1, 16, 16)
    (support,), query = split(family, x, y)
    assert support[1].sort(1).values.eq(torch.arange(4).repeat_interleave(3)).all(), "three images of each label"
    assert query[1].sort(1).values.eq(torch.arange(4).repeat_interleave(2)).all()
    for row, task in enumerate(tasks):
        chosen = set(zip(task.data["classes"].tolist(), task.data["rotation"].tolist(), strict=True))
        assert len(chosen) == 4, "four different classes"
        for label in range(4):
            images = x[row][y[row] == label].flatten(1)
            assert len(torch.unique(images, dim=0)) == 5, "support and query share no image"
    data = tasks[3].data
    picture = family.bank[int(data["classes"][2])][data["images"][2, 1]]
    place = data["order"].tolist().index(4 + 2)  # the second image of label 2
    assert y[3, place] == 2
    assert torch.equal(x[3, place], torch.rot90(picture, int(data["rotation"][2]), (-2, -1)))
    assert set(family.class_ids(tasks[0]).tolist()) <= set(range(family.all_classes))


def test_no_position_tells_a_label() -> None:
    """With one shot the third image of a support set has each of five labels equally often, and so has the third query:
    whoever labels by position is at chance.
    """
    family = strokes(ways=5, query=1)
    _, y = family.examples([family.sample(0, index) for index in range(1000)])
    share = torch.nn.functional.one_hot(y, 5).float().mean(0)  # (10, 5)
    assert (share - 0.2).abs().max() < 0.06
    assert (y[:, :5] == y[:, 5:]).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_splits_share_no_character() -> None:
    banks = {part: strokes(split=part).bank for part in ("train", "val", "test")}
    assert {part: len(bank) for part, bank in banks.items()} == {"train": 40, "val": 8, "test": 8}
    firsts = [bank[0].sum().item() for part in banks for bank in banks[part]]
    every = torch.stack([images for part in banks for images in banks[part]]).flatten(1)
    assert len(torch.unique(every, dim=0)) == len(firsts) == 56


def test_nearest_neighbours_by_hand() -> None:
    family = strokes(ways=2, shot=2)
    support = torch.tensor([[[0.0, 0], [10, 0], [0, 1], [5, 5]]])[..., None]
    labels = torch.tensor([[0, 1, 0, 1]])
    queries = torch.tensor([[[0.0, 2], [6, 4]]])[..., None]
    logits = NearestNeighbour(family).answer((support, labels), queries)
    assert logits.argmax(-1).tolist() == [[0, 1]]
    assert logits[0, 0].tolist() == pytest.approx([-1.0, -(34**0.5)])


def test_the_convolution_of_many_weights_is_that_of_each() -> None:
    torch.manual_seed(0)
    net = ConvNet(1, [3, 4], 9, 5)
    assert net.features == 4 * 3 * 3
    x = torch.rand(2, 6, 1, 9, 9)
    weights = {name: torch.randn(2, *p.shape) for name, p in net.named_parameters()}
    together = net.of_tasks(weights, x)
    for task in range(2):
        alone = torch.func.functional_call(net, {name: w[task] for name, w in weights.items()}, (x[task],))
        assert torch.allclose(together[task], alone, atol=1e-4)
    shared = net.of_tasks(dict(net.named_parameters()), x)
    assert torch.allclose(shared[1], net(x[1]), atol=1e-5)


QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.logging_steps=20")
SMALL = ("problems.classes=40", "problems.size=16", "problems.query=3", "args.max_steps=40", "args.learning_rate=0.003")


def accuracy(learner: Any, **dials: Any) -> Tensor:
    return -loss_curve(learner, strokes(split="test", query=5, **dials), 100, None).mean(0)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        pytest.param("maml", 0.45, marks=pytest.mark.slow),
        ("matching", 0.6),
        pytest.param("finetune", 0.4, marks=pytest.mark.slow),
    ],
)
def test_rows_learn_in_seconds(name: str, least: float, tmp_path: Path, learning: Any) -> None:
    recipe = load_recipe(f"gradient/strokes/{name}", [*QUICK, *SMALL, f"seed={learning.seed()}"])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)
    trainer.train()
    curve = accuracy(trainer.model)
    learning.check("accuracy, chance .2", curve[-1], above=least)
    if name != "matching":
        learning.check("accuracy before a label", curve[0], above=0.12, below=0.28)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mann", "tcml"])
def test_sequence_readers_bind_the_labels_of_the_episode(name: str, tmp_path: Path, learning: Any) -> None:
    """ln 2 = .693 is what a reader keeps that never looks at the support set."""
    changed = ("problems.ways=2", "args.max_steps=400", f"seed={learning.seed()}")
    recipe = load_recipe(f"gradient/strokes/{name}", [*QUICK, *SMALL, *changed])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    learning.check("last loss", losses[-1], below=0.6)
    learning.check("accuracy, chance .5", accuracy(trainer.model, ways=2)[-1], above=0.7)


@pytest.mark.parametrize("name", ["mann", "tcml"])
def test_sequence_readers_hear_labels_and_not_the_other_queries(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(f"gradient/strokes/{name}", [*QUICK, *SMALL])
    learner = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path).model
    support, queries = torch.rand(2, 5, 1, 16, 16), torch.rand(2, 3, 1, 16, 16)
    labels = torch.arange(5).expand(2, 5)
    out = learner.answer((support, labels), queries)
    assert out.shape == (2, 3, 5)
    assert torch.allclose(learner.answer((support, labels), queries[:, 1:]), out[:, 1:], atol=1e-5)
    assert not torch.allclose(learner.answer((support, labels.flip(1)), queries), out, atol=1e-4)


def test_the_least_used_slot_is_written() -> None:
    """One step of MANN: the gate shut, all of the key goes to the slot whose use is smallest, erased before."""
    torch.manual_seed(0)
    memory = MANN(strokes(), Args(), slots=3, width=4, hidden=5)
    torch.nn.init.zeros_(memory.gate.weight)
    torch.nn.init.constant_(memory.gate.bias, -100.0)
    state = State(*(torch.zeros(1, 5),) * 2, torch.ones(1, 3, 4), torch.eye(3)[:1], torch.tensor([[0.5, 0.4, 0.6]]))
    _, after = memory._step(torch.randn(1, memory.net.features), torch.eye(5)[:1], state)
    key = torch.tanh(memory.key(after.hidden))
    assert torch.allclose(after.memory[0, 1], key[0], atol=1e-6)
    assert (after.memory[0, [0, 2]] == 1).all()
    assert after.read.sum().item() == pytest.approx(1)
    expected = 0.95 * torch.tensor([0.5, 0.4, 0.6]) + after.read[0] + torch.tensor([0.0, 1.0, 0.0])
    assert torch.allclose(after.use[0], expected, atol=1e-6)
    torch.nn.init.constant_(memory.gate.bias, 100.0)  # open: the slot that was read is written instead
    _, after = memory._step(torch.randn(1, memory.net.features), torch.eye(5)[:1], state)
    assert torch.allclose(after.memory[0, 0], 1 + torch.tanh(memory.key(after.hidden))[0], atol=1e-6)


class Args:
    """The arguments that an embedding is built from."""

    hidden: ClassVar = [8]
    activation = "relu"


def picture(path: Path, shade: int, size: int = 12) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size), 255, np.uint8)
    pixels[: size // 2, : size // 3] = shade
    Image.fromarray(pixels).save(path)


def test_omniglot_is_read_from_its_folders(tmp_path: Path) -> None:
    for part, count in (("images_background", 10), ("images_evaluation", 3)):
        for character in range(count):
            for drawing in range(4):
                picture(tmp_path / part / "Greek" / f"character{character:02}" / f"{drawing}.png", 10 * character)
    dials = {"path": str(tmp_path), "query": 2, "model": "mlp", "size": 12}
    sizes = {p: len(problem_family("omniglot", split=p, **dials).bank) for p in ("train", "val", "test")}
    assert sizes == {"train": 8, "val": 2, "test": 3}
    family = problem_family("omniglot", split="test", **dials)
    assert family.bank[2].shape == (4, 1, 12, 12)
    assert family.bank[2][0, 0, 0, 0] == 255 - 20, "ink is bright"
    x, _ = family.examples([family.sample(0, 0)])
    assert x.max() == 1
    with pytest.raises(DataError, match=r"5 classes of 6 images are needed, the test split has 3 classes of 4 to 4"):
        _ = problem_family("omniglot", split="test", **dials | {"query": 5}).bank
    with pytest.raises(DataError, match="unpack Omniglot's archives there"):
        _ = problem_family("omniglot", path=str(tmp_path / "nowhere")).bank


def test_miniimagenet_is_read_from_folders_and_from_csv(tmp_path: Path) -> None:
    for label in ("n01", "n02"):
        for number in range(3):
            picture(tmp_path / "folders" / "train" / label / f"{number}.jpg", 50)
            picture(tmp_path / "listed" / "images" / f"{label}{number}.jpg", 50)
    rows = "\n".join(f"{label}{number}.jpg,{label}" for number in range(3) for label in ("n02", "n01"))
    (tmp_path / "listed" / "train.csv").write_text(f"filename,label\n{rows}\n")
    banks = []
    for root in ("folders", "listed"):
        family = problem_family("miniimagenet", path=str(tmp_path / root), ways=2, query=2, size=10)
        assert [tuple(images.shape) for images in family.bank] == [(3, 3, 10, 10)] * 2
        assert family.all_classes == 2, "photographs are not rotated"
        banks.append(torch.stack(family.bank))
    assert torch.equal(*banks)
    (tmp_path / "listed" / "train.csv").write_text("name,label\na.jpg,n01\n")
    with pytest.raises(DataError, match="line 2: columns filename and label"):
        _ = problem_family("miniimagenet", path=str(tmp_path / "listed"), ways=2, query=2).bank
    (tmp_path / "folders" / "train" / "n01" / "0.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"0.jpg cannot be read as an image"):
        _ = problem_family("miniimagenet", path=str(tmp_path / "folders"), ways=2, query=2).bank
