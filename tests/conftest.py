"""One thread, offline, quiet: set before torch is imported, and inherited by every subprocess of the tests."""

import json
import math
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


# Files whose single tests take a minute or more. Two workers finish together only where these begin first.
LONGEST_FIRST = (
    "test_docs.py",
    "test_learning.py",
    "test_environment_docs.py",
    "test_gates.py",
    "test_kill.py",
    "test_wheel.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, and leaves all else in its order."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model and its tokenizer, as `from_pretrained` loads them; shared by the session, read only."""
    from mrt.reasoning.models.tiny import save_tiny

    return Path(save_tiny(tmp_path_factory.mktemp("tiny") / "model"))


class Learning:
    """What a test of learning asks of the learner it trained. `tests/programs/matrix.py` runs such tests with other
    seeds and as on other processors: MRT_TEST_SEED moves their seeds; where MRT_TEST_FIGURES names a file, figures are
    written there as JSON lines, and the program judges them.
    """

    def __init__(self, test: str) -> None:
        self.test = test

    def seed(self, own: int = 0) -> int:
        """The seed to train with: `own`, except in the matrix."""
        return own + int(os.environ.get("MRT_TEST_SEED", "0"))

    def check(self, figure: str, value: float, above: float = -math.inf, below: float = math.inf) -> None:
        """Holds above < value < below. Bounds stand well outside the spread that the matrix prints."""
        value, above, below = float(value), float(above), float(below)
        row = {"test": self.test, "figure": figure, "value": value, "above": above, "below": below}
        if path := os.environ.get("MRT_TEST_FIGURES"):
            with open(path, "a") as file:
                file.write(json.dumps(row) + "\n")
        else:
            assert above < value < below, f"{figure} is {value:.4g}, not between {above:.4g} and {below:.4g}"


@pytest.fixture
def learning(request: pytest.FixtureRequest) -> Learning:
    """Seeds and figures of a test of learning."""
    return Learning(request.node.nodeid)
