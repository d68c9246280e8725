"""An evaluation by another engine: equal answers where nothing is drawn, refusals where it could not be right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mrt.cli import main as cli
from mrt.errors import ConfigError
from mrt.reasoning.engines.opening import open_engine
from mrt.reasoning.evaluation.run import run_eval
from tests.support.vllm_standin import MODEL, TOKENIZER, serving

pytestmark = pytest.mark.training

DIALS = {"high": 9, "train": 0, "warmstart": 0, "test": 40}
SMALL: dict[str, Any] = {"n": 2, "budgets": [0, 6, 12], "answer_tokens": 8, "limit": 3, "temperature": 0.0, "votes": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("engines") / "model"
    MODEL.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def close(one: Any, other: Any) -> bool:
    """Equal, numbers to 1e-4."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=1e-4) if isinstance(one, float) else one == other


def test_a_server_gives_the_same_evaluation(model: str, tmp_path: Path) -> None:
    """Greedy: thoughts, forced answers, exact J, votes, extrapolation and the sliding window, all from the server."""
    more = {"extensions": [1], "extension_tokens": 4, "window": 1, "window_tokens": 6}
    ours = run_eval(model, "countdown", tmp_path / "ours", DIALS, name="e", **SMALL, **more)
    with serving(root=model, max_model_len=1024) as (url, asked):
        theirs = run_eval(model, "countdown", tmp_path / "theirs", DIALS, name="e", engine=url, **SMALL, **more)
        assert len(asked) > 50
    assert close(rows(tmp_path / "ours"), rows(tmp_path / "theirs"))
    assert close({**ours, "environment": 0}, {**theirs, "environment": 0})
    assert json.loads((tmp_path / "theirs/eval.json").read_text())["engine"] == url


def test_a_server_with_another_model_is_refused(model: str, tmp_path: Path) -> None:
    with serving(root="somebody/else") as (url, _):
        with pytest.raises(ConfigError, match=r"holds somebody/else = tiny, not '.*'.*--served-model-name"):
            open_engine(model, url)
        with pytest.raises(ConfigError, match="cannot be loaded"):
            open_engine("tiny", url)  # of that name there is no tokenizer here
    with serving(id=model, max_model_len=60) as (url, _), pytest.raises(ConfigError, match="more than the 60 of"):
        run_eval(model, "countdown", tmp_path, DIALS, engine=url, **{**SMALL, "budgets": [0, 50]})


def test_the_precision_of_transformers_can_be_chosen(model: str) -> None:
    for dtype in ("float32", "bfloat16"):
        engine: Any = open_engine(model, options={"dtype": dtype}).engine
        assert {str(parameter.dtype) for parameter in engine.model.parameters()} == {f"torch.{dtype}"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--engine", "vlm"], "engine 'vlm' is none: transformers, vllm, or the address"),
        (["settings.engine_options={max_model_len: 9}"], "engine 'transformers' takes dtype"),
        (["settings.engine_options={dtype: int8}"], "engine 'transformers' takes dtype"),
        (["--engine", "vllm"], "needs vLLM"),
        (["--engine", "http://127.0.0.1:9"], "did not answer /v1/models"),
    ],
)
def test_mistakes_are_named(
    model: str, tmp_path: Path, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "vllm", None)
    command = ["eval", model, "--problems", "countdown", "high=9", "train=0", "warmstart=0", "test=5"]
    assert cli.main([*command, "--limit", "2", "--out", str(tmp_path / "e"), *argv, "--json"]) == 2
    assert message in json.loads(capsys.readouterr()[0])["error"]


def test_adapters_are_merged_before_vllm_sees_them(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="merge it first"):
        open_engine(str(tmp_path), "vllm")


def test_processes_do_not_share_a_device_by_accident(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start `vllm serve MODEL`"):
        open_engine(model, "vllm")
