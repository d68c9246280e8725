"""One update on two processes that share the weights by DeepSpeed's ZeRO-3, on CPUs; prints what splits.py prints.

    torchrun --nproc_per_node 2 -m tests.programs.zero3 ROWS ACCUMULATION [name=value ...]

recipes/accelerate/zero3.yaml in float32.
"""

from __future__ import annotations

import os
import sys

import yaml

from tests.support import ROOT

CONFIG = ROOT / "recipes" / "accelerate" / "zero3.yaml"
content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["deepspeed_config"]
# What `accelerate launch --config_file zero3.yaml` tells its processes; before anything of torch is imported.
settings = {f"ACCELERATE_DEEPSPEED_{key.upper()}": str(value).lower() for key, value in content.items()}
os.environ.update(settings | {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"})
os.environ.pop("ACCELERATE_USE_CPU", None)  # accelerate offers DeepSpeed to what it does not know to be a CPU

import deepspeed  # noqa: E402
import torch  # noqa: E402

from tests.programs import splits  # noqa: E402


def whole(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter, gathered for the moment."""
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        return {name: value.detach().clone() for name, value in model.named_parameters()}


if __name__ == "__main__":
    splits.main(*sys.argv[1:], "use_cpu=0", "ddp_backend=gloo", gather=whole)
