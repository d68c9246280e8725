"""The configurations of recipes/accelerate are ones that accelerate itself reads."""

from __future__ import annotations

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

from tests.support import ROOT

FOLDER = ROOT / "recipes" / "accelerate"
KINDS = {"cpu": "NO", "single_gpu": "NO", "multi_gpu": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}


def test_there_is_one_for_each() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert str(getattr(config.distributed_type, "value", config.distributed_type)) == KINDS[name]
    assert config.use_cpu is (name == "cpu")
    assert config.num_processes >= 1
    if name == "fsdp2":
        known = set(FullyShardedDataParallelPlugin.__dataclass_fields__)
        wanted = {key.removeprefix("fsdp_") for key in config.fsdp_config} - {"transformer_layer_cls_to_wrap"}
        renamed = {"version": "fsdp_version", "offload_params": "cpu_offload"}
        assert {renamed.get(key, key) for key in wanted} <= known
    if name == "zero3":
        assert config.deepspeed_config["zero_stage"] == 3
