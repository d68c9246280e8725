"""Nested state on disk without pickle: tensors in safetensors, everything else in JSON, read back exactly as it was.

A tree is made of None, bool, int, float (NaN and the infinities included), str, list, tuple, dict (any such keys),
OrderedDict, tensors, numpy arrays and numpy numbers. That covers the states of optimisers, schedulers and of the
random generators of Python, numpy and torch. Any other type raises: what cannot come back exactly is not written.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.errors import CheckpointError

SCHEMA_VERSION = 1
SHARD_BYTES = 2 << 30  # tensors are copied to the CPU one shard at a time, which bounds the memory a save needs
TAG = "$"
STORABLE = frozenset(
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "complex64", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
)


def save_tree(directory: Path, name: str, tree: Any, lenient: bool = False) -> None:
    """Writes `tree` as NAME.json and, where it holds tensors, NAME.safetensors (NAME-2.safetensors, ... beyond 2 GiB).

    Args:
        lenient: write the text of what cannot be stored instead of raising; for dumps that are only read by people.

    Raises:
        TypeError: naming the path in the tree of a value that cannot be stored exactly.
    """
    from safetensors.torch import save_file

    writer = _Writer(lenient)
    encoded = writer.encode(tree, name)
    directory.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(writer.shards):
        seen: set[int] = set()
        save_file({key: _to_cpu(value, seen) for key, value in shard.items()}, directory / _shard(name, number))
    content = {"schema_version": SCHEMA_VERSION, "shards": len(writer.shards), "tree": encoded}
    with (directory / f"{name}.json").open("w", encoding="utf-8") as file:
        json.dump(content, file, allow_nan=False)


def load_tree(directory: Path, name: str) -> Any:
    """The tree that `save_tree` wrote; tensors on the CPU.

    Raises:
        CheckpointError: when a file is missing, cannot be read, or was written by a newer version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise CheckpointError(f"{path} has schema version {content['schema_version']}, not {SCHEMA_VERSION}")
        files = [directory / _shard(name, number) for number in range(content["shards"])]
        for path in files:
            path.stat()  # a missing one is told by name
        return _decode(content["tree"], [load_file(path) for path in files])
    except FileNotFoundError as error:
        raise CheckpointError(f"{directory} has no {path.name}: it cannot be resumed") from error
    except (ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def tree_bytes(tree: Any) -> int:
    """Bytes of the tensors and arrays in `tree`, for estimates: anything else counts nothing."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, np.ndarray):
        return int(tree.nbytes)
    if isinstance(tree, dict):
        return sum(tree_bytes(value) for value in tree.values())
    return sum(tree_bytes(value) for value in tree) if isinstance(tree, list | tuple) else 0


def tree_to(tree: Any, device: torch.device | str) -> Any:
    """`tree` with every tensor of it on `device`; lists, tuples, named tuples and dictionaries are made anew."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: tree_to(inner, device) for key, inner in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(tree_to(inner, device) for inner in tree))
    return type(tree)(tree_to(inner, device) for inner in tree) if isinstance(tree, list | tuple) else tree


class _Writer:
    """Turns a tree into JSON and sets its tensors aside, in shards of at most SHARD_BYTES."""

    def __init__(self, lenient: bool) -> None:
        self.lenient = lenient
        self.shards: list[dict[str, Tensor]] = []
        self.room = 0
        self.count = 0

    def encode(self, value: Any, path: str) -> Any:
        kind = type(value)  # exact types only: a subclass would come back as something else
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
        if kind is list:
            return [self.encode(inner, f"{path}.{i}") for i, inner in enumerate(value)]
        if kind is tuple:
            return {TAG: "tuple", "value": [self.encode(inner, f"{path}.{i}") for i, inner in enumerate(value)]}
        if kind in (dict, OrderedDict):
            return self._mapping(value, path)
        if isinstance(value, Tensor) and value.layout is torch.strided and value.dtype in STORABLE:
            return {TAG: "tensor", "value": self._set_aside(value.detach(), path)}
        if isinstance(value, np.ndarray | np.generic):
            array = self._array(np.asarray(value))
            if array is not None:
                return {TAG: "array" if kind is np.ndarray else "scalar", "value": self._set_aside(array, path)}
        if self.lenient:
            return {TAG: "text", "value": repr(value)[:1000]}
        detail = f" of {value.dtype}" if isinstance(value, Tensor | np.ndarray | np.generic) else ""
        raise TypeError(f"{path} is a {kind.__module__}.{kind.__qualname__}{detail}: it cannot be stored exactly")

    def _mapping(self, value: dict[Any, Any], path: str) -> Any:
        if type(value) is dict and TAG not in value and all(type(key) is str for key in value):
            return {key: self.encode(inner, f"{path}.{key}") for key, inner in value.items()}
        pairs = [
            [self.encode(key, f"{path} (key {key!r})"), self.encode(inner, f"{path}.{key}")]
            for key, inner in value.items()
        ]
        return {TAG: "dict" if type(value) is dict else "ordered", "value": pairs}

    def _array(self, array: np.ndarray) -> Tensor | None:
        try:
            tensor = torch.from_numpy(np.array(array, order="C"))
        except TypeError:  # text, objects, other byte orders
            return None
        return tensor if tensor.dtype in STORABLE else None

    def _set_aside(self, tensor: Tensor, path: str) -> list[Any]:
        size = tensor.numel() * tensor.element_size()
        if not self.shards or size > self.room:
            self.shards.append({})
            self.room = SHARD_BYTES
        self.room -= size
        key = f"{self.count}.{path}"
        self.count += 1
        self.shards[-1][key] = tensor
        return [len(self.shards) - 1, key]


def _decode(value: Any, shards: list[dict[str, Tensor]]) -> Any:
    if isinstance(value, list):
        return [_decode(inner, shards) for inner in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: _decode(inner, shards) for key, inner in value.items()}
    kind, inner = value[TAG], value["value"]
    if kind == "float":
        return float(inner)
    if kind == "text":
        return inner
    if kind == "tuple":
        return tuple(_decode(item, shards) for item in inner)
    if kind in ("dict", "ordered"):
        pairs = [(_decode(key, shards), _decode(item, shards)) for key, item in inner]
        return dict(pairs) if kind == "dict" else OrderedDict(pairs)
    if kind in ("tensor", "array", "scalar"):
        tensor = shards[inner[0]][inner[1]]
        return tensor if kind == "tensor" else tensor.numpy() if kind == "array" else tensor.numpy()[()]
    raise ValueError(f"unknown kind of value {kind!r}")


def _to_cpu(value: Tensor, seen: set[int]) -> Tensor:
    """A contiguous copy on the CPU that shares no memory with another one of the same file."""
    copy = value.to("cpu").contiguous()
    storage = copy.untyped_storage()
    if storage.data_ptr() in seen or storage.nbytes() != copy.numel() * copy.element_size():
        copy = copy.clone()
    seen.add(copy.untyped_storage().data_ptr())
    return copy


def _shard(name: str, number: int) -> str:
    return f"{name}.safetensors" if number == 0 else f"{name}-{number + 1}.safetensors"
