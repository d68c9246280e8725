"""The codec: exact round trips, and a refusal of everything that could not come back exactly."""

from __future__ import annotations

import json
import math
import random
import struct
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrt.errors import CheckpointError
from mrt.training import codec
from mrt.training.checkpoint import random_states, set_random_states
from mrt.training.codec import load_tree, save_tree, tree_bytes


def same(left: Any, right: Any) -> bool:
    """Equal in type and in every bit, NaN included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        left, right = left.detach(), right.detach()
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        return bool((left.reshape(-1).view(torch.uint8) == right.reshape(-1).view(torch.uint8)).all())
    if isinstance(left, np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right)
    return left == right


def round_trip(tree: Any, folder: Path) -> Any:
    save_tree(folder, "tree", tree)
    return load_tree(folder, "tree")


def test_plain_values_come_back_exactly(tmp_path: Path) -> None:
    tree = {
        "numbers": [0, -7, 2**200, 0.1, -0.0, 1e-320, math.inf, -math.inf, math.nan, True, False, None],
        "text": ["", "é\n\u2028", "$", "\ud800"],
        "nested": ({"$": 1, "value": (2, [3, ()])}, {}, [], [[]]),
        "keys": {0: "int", "0": "text", 1.5: "float", None: "none", (1, "a"): "tuple", True: "bool would equal 1"},
        "ordered": OrderedDict([("b", 1), ("a", OrderedDict())]),
    }
    assert same(round_trip(tree, tmp_path), tree)
    assert json.loads((tmp_path / "tree.json").read_text())["shards"] == 0
    assert not (tmp_path / "tree.safetensors").exists(), "no tensors, no file of tensors"


def test_every_storable_dtype_comes_back_bit_for_bit(tmp_path: Path) -> None:
    raw = torch.arange(64, dtype=torch.uint8)
    tensors = [raw.view(dtype) for dtype in sorted(codec.STORABLE, key=str) if dtype is not torch.bool]
    tensors += [
        torch.tensor([True, False]),
        torch.tensor(3.5, dtype=torch.bfloat16),
        torch.zeros(0, 3),
        torch.tensor(7),
    ]
    tensors += [torch.tensor([math.nan, -math.inf, -0.0])]
    assert same(round_trip(tensors, tmp_path), tensors)


def test_views_shared_memory_and_parameters(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tree = [base, base, base.t(), base[:, 1], base[1:], torch.nn.Parameter(base)]
    back = round_trip(tree, tmp_path)
    assert all(torch.equal(x, y) for x, y in zip(tree, back, strict=True))
    assert type(back[-1]) is torch.Tensor, "what comes back carries no gradient"
    back[0].zero_()
    assert torch.equal(back[1], base), "values that shared memory come back on their own"


def test_numpy_arrays_and_numbers(tmp_path: Path) -> None:
    kinds = [np.float64, np.float32, np.float16, np.int64, np.uint32, np.uint64, np.uint8, np.bool_, np.complex64]
    tree = [np.arange(6).astype(kind).reshape(2, 3) for kind in kinds] + [kind(1) for kind in kinds]
    tree += [np.array(2.5), np.zeros((0, 2)), np.asfortranarray(np.arange(6.0).reshape(2, 3))]
    assert same(round_trip(tree, tmp_path), tree)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    modern, legacy, local = np.random.default_rng(3), np.random.RandomState(4), torch.Generator().manual_seed(5)
    random.gauss(0, 1)  # leaves a second number in the state
    np.random.normal()
    tree = {
        "global": random_states(),
        "modern": modern.bit_generator.state,
        "legacy": legacy.get_state(),
        "philox": np.random.Generator(np.random.Philox(6)).bit_generator.state,
        "torch": local.get_state(),
    }
    back = round_trip(tree, tmp_path)
    assert same(back, tree)

    def draw() -> list[Any]:
        rest = [modern.random(), legacy.rand(), torch.rand(1, generator=local).item()]
        return [random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(2).tolist(), *rest]

    expected = draw()
    set_random_states(back["global"])
    modern.bit_generator.state = back["modern"]
    legacy.set_state(back["legacy"])
    local.set_state(back["torch"])
    assert draw() == expected


def test_optimiser_states_come_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, amsgrad=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)  # holds an infinity
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule.step(1.0)
    tree = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    assert same(round_trip(tree, tmp_path), tree)


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [0, {1, 2}]}, "tree.a.1"),
        ({"a": {"b": (b"bytes",)}}, "tree.a.b.0"),
        ([Colour.RED], "tree.0"),  # a subclass of int would come back as another type
        ({(1, Path()): 0}, "tree (key"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (torch.zeros(2, 2).to_sparse(), "tree is a torch.Tensor"),
        (np.array(["text"]), "tree is a numpy.ndarray of <U4"),
        (np.array([object()]), "of object"),
        ({"f": len}, "tree.f is a builtins.builtin_function_or_method"),
    ],
)
def test_what_cannot_come_back_is_refused_by_its_path(value: Any, path: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError) as caught:
        save_tree(tmp_path, "tree", value)
    assert path in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "refused before anything is written"


def test_a_dump_for_people_keeps_what_it_can(tmp_path: Path) -> None:
    save_tree(tmp_path, "dump", {"set": {1}, "loss": math.nan, "x": torch.ones(2)}, lenient=True)
    back = load_tree(tmp_path, "dump")
    assert back["set"] == "{1}"
    assert math.isnan(back["loss"])
    assert torch.equal(back["x"], torch.ones(2))


def test_large_trees_are_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "SHARD_BYTES", 100)
    tree = [
        torch.arange(20),
        torch.arange(10.0),
        torch.arange(200),
        torch.tensor(1),
        torch.arange(12.0),
    ]  # 160, 40, ...
    assert same(round_trip(tree, tmp_path), tree)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "tree-2.safetensors",
        "tree-3.safetensors",
        "tree-4.safetensors",
        "tree.safetensors",
    ]
    assert tree_bytes({"a": tree, "b": (np.zeros(3), "text", 4)}) == 160 + 40 + 1600 + 8 + 48 + 24


@pytest.mark.parametrize("damage", ["gone", "no tensors", "not json", "newer", "wrong key", "no shard", "cut"])
def test_damage_is_a_checkpoint_error(damage: str, tmp_path: Path) -> None:
    save_tree(tmp_path, "tree", {"x": torch.ones(3)})
    path, tensors = tmp_path / "tree.json", tmp_path / "tree.safetensors"
    if damage == "gone":
        path.unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:20])
    else:
        old, new = {
            "not json": ("{", "["),
            "newer": ('"schema_version": 1', '"schema_version": 2'),
            "wrong key": ("0.tree.x", "1.tree.x"),
            "no shard": ('"shards": 1', '"shards": 2'),
        }[damage]
        path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CheckpointError, match="tree"):
        load_tree(tmp_path, "tree")
