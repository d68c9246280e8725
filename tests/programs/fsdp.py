"""One update on two processes that share the weights by FSDP2, on CPUs; prints what splits.py prints.

    torchrun --nproc_per_node 2 -m tests.programs.fsdp ROWS ACCUMULATION [name=value ...]

PyTorch shards on CPUs as well, accelerate offers it on accelerators only: so its state is told what
recipes/accelerate/fsdp2.yaml says, in float32.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from tests.programs import splits
from tests.support import ROOT

CONFIG = ROOT / "recipes" / "accelerate" / "fsdp2.yaml"


def shard() -> None:
    """What `accelerate launch --config_file fsdp2.yaml` does, on a CPU."""
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings = {key.upper(): str(value).lower() if isinstance(value, bool) else str(value)
                for key, value in content["fsdp_config"].items()}  # fmt: skip
    os.environ.update(settings | {"ACCELERATE_USE_FSDP": "true"})
    begin = AcceleratorState.__init__

    def begin_sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin or FullyShardedDataParallelPlugin()

    AcceleratorState.__init__ = begin_sharded  # type: ignore[method-assign]


if __name__ == "__main__":
    shard()
    splits.main(*sys.argv[1:])
