"""Meta-reinforcement finetuning: every episode of a model's reasoning should make progress.

    from mrt import MRTConfig, MRTTrainer

The names below are loaded on first use, so that `import mrt` costs nothing: it loads neither torch nor trl.
Read `mrt/trials.py` (the record) and `mrt/credit/` (what a step of it is worth) first.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "MRTConfig": "mrt.reasoning.training.trainer",
    "MRTTrainer": "mrt.reasoning.training.trainer",
    "Recipe": "mrt.runs.recipe",
    "Trials": "mrt.trials",
    "WarmStartTrainer": "mrt.reasoning.training.warmstart",
    "load_policy": "mrt.control.loading",
    "load_problems": "mrt.reasoning.problems",
    "load_recipe": "mrt.runs.recipe",
    "MRTError": "mrt.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from mrt.version import version

        return version()
    if name not in _HOME:
        raise AttributeError(f"module 'mrt' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
