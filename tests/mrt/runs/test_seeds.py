"""Several seeds of one recipe: by hand, and through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrt.cli import main as cli
from mrt.errors import ConfigError, DataError
from mrt.runs.recipe import Recipe
from mrt.runs.seeds import aggregate, final_scores, seeded, stratified_interval


def test_every_seed_has_its_own_folder() -> None:
    runs = seeded(Recipe("a:B", output_dir="runs/x", seed=4), 3)
    assert [(run.seed, run.output_dir) for run in runs] == [(n, f"runs/x/seed-{n}") for n in (4, 5, 6)]
    with pytest.raises(ConfigError, match="at least 2"):
        seeded(Recipe("a:B"), 1)


def test_scores_are_of_the_last_quarter(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": i, "time": 1.0, "reward": i, "flag": True, "note": "x"} for i in range(8)]
    rows += [{"reward": None, "train_runtime": 9.0, "rare": 5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert final_scores(tmp_path) == {"reward": 6.5, "rare": 5}
    with pytest.raises(DataError, match="not logged anything"):
        final_scores(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(DataError, match="line 2"):
        final_scores(tmp_path)


def test_interquartile_mean_and_strata() -> None:
    """Of 8 runs the middle 4 count: 2, 3, 4, 5. Tasks far apart: resampling within them keeps the interval narrow."""
    assert stratified_interval([0, 1, 2, 3, 4, 5, 6, 100]).mean == 3.5
    rng = np.random.default_rng(0)
    scores = np.stack([rng.normal(0, 0.1, 10), rng.normal(10, 0.1, 10)], 1)
    inside = stratified_interval(scores)
    assert inside.low < inside.mean < inside.high
    assert inside.high - inside.low < 0.5, "unstratified, the share of each task would swing"
    constant = stratified_interval(np.ones((3, 4)))
    assert (constant.mean, constant.low, constant.high) == (1, 1, 1)
    with pytest.raises(ValueError, match="measured values"):
        stratified_interval([1.0, np.nan])


def test_the_interval_covers_as_often_as_it_says() -> None:
    """300 experiments of 10 seeds with a true value of 0: a percentile interval of so few covers about 88 %."""
    rng = np.random.default_rng(1)
    hits = 0
    for number in range(300):
        one = stratified_interval(rng.normal(size=10), n_boot=400, seed=number)
        hits += one.low <= 0 <= one.high
    assert 0.80 < hits / 300 < 0.97


def test_aggregate_keeps_what_all_seeds_have() -> None:
    found = aggregate({1: {"a": 1.0, "b": 2.0}, 2: {"a": 3.0}})
    assert list(found) == ["a"]
    assert found["a"]["iqm"] == 2
    assert found["a"]["by_seed"] == {"1": 1.0, "2": 3.0}
    assert (found["a"]["low"], found["a"]["high"]) == (1, 3)


def test_the_command_trains_aggregates_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(
        "trainer: tests.support.fake_trainers:FakeTrainer\nseed: 7\nargs: {max_steps: 4}\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["train", "r.yaml", "--allow-code", "--seeds", "3", "--json"]
    assert cli.main([*command, "run_name=interrupt"]) == 130
    capsys.readouterr()
    assert not (tmp_path / "runs/r/seeds.json").exists()
    (tmp_path / "runs/r/seed-7/metrics.jsonl").unlink()  # the stand-in does not cut its log back at resume
    assert cli.main(command) == 0
    out, _ = capsys.readouterr()
    answer = json.loads(out)
    assert answer["seeds"] == [7, 8, 9]
    assert answer["metrics"]["reward"]["iqm"] == pytest.approx(0.4)
    stored = json.loads((tmp_path / "runs/r/seeds.json").read_text())
    assert stored["metrics"]["reward"]["by_seed"] == {"7": 0.4, "8": 0.4, "9": 0.4}
    for seed in (7, 8, 9):
        assert json.loads((tmp_path / f"runs/r/seed-{seed}/run.json").read_text())["recipe"]["seed"] == seed
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/r").rglob("weights")}
    assert cli.main(command) == 0, "finished seeds are not trained again"
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/r").rglob("weights")}
    assert cli.main([*command[:-3], "--seeds", "1", "--json"]) == 2
