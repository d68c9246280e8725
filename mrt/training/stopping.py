"""A run that is asked to save and end, by a file: what a batch job does shortly before its time limit.

A signal would reach the launcher and not its processes, and each process in the middle of something else. A file is
seen by the main process after an update, and all processes act on what it saw.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

VARIABLE = "MRT_STOP_FILE"


class StopFile(TrainerCallback):
    """Saves a checkpoint and ends the training after the first update that finds `path` there."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, False

    @staticmethod
    def of_environment() -> StopFile | None:
        """The file that MRT_STOP_FILE names; None where it names none."""
        named = os.environ.get(VARIABLE)
        return StopFile(Path(named)) if named else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = [state.is_world_process_zero and self.path.exists()]
        if args.world_size > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        if found[0] and state.global_step < state.max_steps and not control.should_training_stop:
            self.seen = control.should_save = control.should_training_stop = True
