"""N-way K-shot classification: episodes from a bank of images by class, drawn here or read from local files.

    strokes        drawn here (`strokes.py`)
    omniglot       the folder of the data set: images_background/ALPHABET/CHARACTER/*.png, images_evaluation/...
    miniimagenet   train/CLASS/*.jpg, val/..., test/..., or images/*.jpg beside train.csv, val.csv, test.csv (Ravi &
                   Larochelle's split: filename,label)

Classes of the splits are disjoint: a drawn or Omniglot character is in one split with all its rotations.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.inner.task_networks import MLP, ConvNet
from classic_metarl.problems.strokes import stroke_bank
from mrt.errors import ConfigError, DataError
from mrt.tasks import Task, generator

Split = Literal["train", "val", "test"]
ENDINGS = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class ImageEpisodes:
    """A family of N-way classification problems, as the supervised trainer asks for it.

    A task draws `ways` classes, and of each `shot` support and `query` query images. Which class has which label is
    drawn with the task, and so is the order within the support set and within the queries: no position tells a label,
    so that each has to be bound to its image.

    Args:
        source: strokes, omniglot or miniimagenet. path: of the latter two.
        size: pixels a side. rotations: every rotation by 90 degrees is a class of its own.
        classes: of the drawn training split; a fifth as many more for val, and for test (at least `ways`).
        model: conv (four convolutions) or mlp.
    """

    source: str = "strokes"
    ways: int = 5
    shot: int = 1
    query: int = 5
    split: Split = "train"
    size: int = 20
    rotations: bool = True
    classes: int = 200
    path: str = ""
    seed: int = 0
    model: Literal["conv", "mlp"] = "conv"
    stages: int = field(default=1, init=False)
    name: str = "strokes"

    def __post_init__(self) -> None:
        if min(self.ways - 1, self.shot, self.query) < 1:
            raise ConfigError(
                f"ways={self.ways} must be at least 2, shot={self.shot} and query={self.query} at least 1"
            )
        if self.split not in ("train", "val", "test"):
            raise ConfigError(f"split={self.split!r} must be train, val or test")

    @property
    def shots(self) -> int:
        """Images of a support set."""
        return self.ways * self.shot

    @property
    def queries(self) -> int:
        """Images of a query set."""
        return self.ways * self.query

    @cached_property
    def bank(self) -> list[Tensor]:
        """One tensor (images, channels, size, size) a class of this split, before rotation."""
        if self.source == "strokes":
            part = max(self.classes // 5, self.ways)
            first, count = {
                "train": (0, self.classes),
                "val": (self.classes, part),
                "test": (self.classes + part, part),
            }[self.split]
            return list(stroke_bank(self.classes + 2 * part, self.size, self.seed)[first : first + count])
        reader = {"omniglot": read_omniglot, "miniimagenet": read_miniimagenet}[self.source]
        found = reader(Path(self.path), self.split, self.size)
        self._check(found)
        return found

    def _check(self, found: Sequence[Tensor]) -> None:
        need = self.shot + self.query
        if len(found) * (4 if self.rotations else 1) < self.ways or min(len(images) for images in found) < need:
            sizes = [len(images) for images in found]
            raise DataError(
                f"{self.path}: {self.ways} classes of {need} images are needed, the {self.split} split has "
                f"{len(found)} classes of {min(sizes)} to {max(sizes)}"
            )

    def sample(self, seed: int, index: int) -> Task:
        """Task `index` of `seed`: class, rotation (ways,), image numbers (ways, shot + query) and order (T,)."""
        source, bank = generator(seed, index), self.bank
        turns = 4 if self.rotations else 1
        drawn = torch.randperm(len(bank) * turns, generator=source)[: self.ways]
        classes, rotation = drawn // turns, drawn % turns
        need = self.shot + self.query
        images = torch.stack([torch.randperm(len(bank[c]), generator=source)[:need] for c in classes.tolist()])
        sets = [torch.randperm(count, generator=source) for count in (self.shots, self.queries)]
        order = torch.cat([sets[0], self.shots + sets[1]])
        return Task(f"{seed}:{index}", {"classes": classes, "rotation": rotation, "images": images, "order": order})

    def examples(self, tasks: Sequence[Task]) -> tuple[Tensor, Tensor]:
        """Images (M, T, C, S, S) and labels (M, T): the support set, then the queries, each in the task's own order."""
        x = torch.stack([self._images(task)[task.data["order"]] for task in tasks])
        y = torch.arange(self.ways).repeat(self.shot + self.query)
        return x, torch.stack([y[task.data["order"]] for task in tasks])

    def _images(self, task: Task) -> Tensor:
        data = task.data
        picked = [
            torch.rot90(_as_float(self.bank[c][images]), turn, (-2, -1))
            for c, turn, images in zip(data["classes"].tolist(), data["rotation"].tolist(), data["images"], strict=True)
        ]
        return torch.stack(picked, 1).flatten(0, 1)  # image number first: every shot holds each class once

    def network(self, hidden: Sequence[int], activation: str) -> nn.Module:
        """Four convolutions of stride 2 with batch statistics, or fully connected layers."""
        channels = 3 if self.source == "miniimagenet" else 1
        if self.model == "mlp":
            return MLP([channels * self.size**2, *hidden, self.ways], activation)
        return ConvNet(channels, hidden, self.size, self.ways)

    def embedding(self, hidden: Sequence[int], activation: str) -> nn.Module:
        """The same without its head: features of width `.features`."""
        channels = 3 if self.source == "miniimagenet" else 1
        if self.model == "mlp":
            return MLP([channels * self.size**2, *hidden], activation)
        return ConvNet(channels, hidden, self.size, 0)

    @property
    def all_classes(self) -> int:
        """Classes of this split, rotations counted."""
        return len(self.bank) * (4 if self.rotations else 1)

    def class_ids(self, task: Task) -> Tensor:
        """(ways,) which of `all_classes` the labels of a task are."""
        return task.data["classes"] * (4 if self.rotations else 1) + task.data["rotation"]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) cross-entropy of logits (..., n, ways)."""
        return -outputs.log_softmax(-1).gather(-1, targets[..., None])[..., 0]

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) 1 where the largest logit is the label's."""
        return (outputs.argmax(-1) == targets).float()

    def bounds(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) accuracy 1, and chance."""
        one = torch.ones(len(targets), device=targets.device)
        return one, one / self.ways


def read_omniglot(root: Path, split: Split, size: int) -> list[Tensor]:
    """One tensor (20, 1, size, size) uint8 ink a character. Background characters are training, evaluation ones test;
    the last fifth of the background characters, in order of their names, is val.
    """
    folder = root / ("images_evaluation" if split == "test" else "images_background")
    characters = sorted(path for path in folder.glob("*/*") if path.is_dir())
    if not characters:
        raise DataError(f"{folder} holds no ALPHABET/CHARACTER folders: unpack Omniglot's archives there")
    edge = len(characters) - len(characters) // 5
    chosen = {"train": characters[:edge], "val": characters[edge:], "test": characters}[split]
    return [255 - _read_images(sorted(path.glob("*.png")), size, "L") for path in chosen]


def read_miniimagenet(root: Path, split: Split, size: int) -> list[Tensor]:
    """One tensor (images, 3, size, size) uint8 a class."""
    listing, classes = root / f"{split}.csv", dict[str, list[Path]]()
    if listing.is_file():
        with listing.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                if not row.get("filename") or not row.get("label"):
                    raise DataError(f"{listing}, line {number}: columns filename and label are needed")
                classes.setdefault(row["label"], []).append(root / "images" / row["filename"])
    else:
        for path in sorted(p for p in (root / split).glob("*") if p.is_dir()):
            classes[path.name] = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS)
    if not classes:
        raise DataError(f"{root} holds neither {split}.csv nor folders {split}/CLASS: put miniImageNet there")
    return [_read_images(paths, size, "RGB") for _, paths in sorted(classes.items())]


def _read_images(paths: Sequence[Path], size: int, mode: str) -> Tensor:
    from PIL import Image

    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR))
        except OSError as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error
        images.append(torch.from_numpy(pixels.copy()).reshape(size, size, -1).permute(2, 0, 1))
    if not images:
        raise DataError("a class folder holds no images")
    return torch.stack(images)


def _as_float(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def one_hot(labels: Tensor, ways: int) -> Tensor:
    """(..., ways) float."""
    return F.one_hot(labels, ways).float()
