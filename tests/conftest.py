"""One thread, offline, quiet: set before torch is imported, and inherited by every subprocess of the tests."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import ROOT

os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TQDM_DISABLE="1",
    TRL_EXPERIMENTAL_SILENCE="1",
    # Processes of the tests run this checkout, wherever they start and whatever is installed.
    PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
)

import torch

torch.set_num_threads(1)
# A shell's background job starts with interrupts ignored, and so would every process that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model and its tokenizer, as `from_pretrained` loads them; shared by the session, read only."""
    from mrt.reasoning.models.tiny import save_tiny

    return Path(save_tiny(tmp_path_factory.mktemp("tiny") / "model"))
