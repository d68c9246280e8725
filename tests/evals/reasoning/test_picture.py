"""README's picture shows the results that are stored, and is drawn the same each time."""

import json
from pathlib import Path

from evals.reasoning.picture import ARMS, PICTURE, digest, draw, main, read_curves


def test_the_picture_is_of_the_stored_results() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    assert f"<dc:identifier>{digest(read_curves())}</dc:identifier>" in text, "run python -m evals.reasoning.picture"


def test_curves_are_read_from_the_seeds_that_all_arms_have(tmp_path: Path) -> None:
    for seed, value in ((0, 0.25), (1, 0.5), (2, 0.75)):
        for arm in ARMS if seed < 2 else ("grpo",):
            path = tmp_path / f"seed{seed}" / f"{arm}.json"
            path.parent.mkdir(exist_ok=True)
            points = [{"episode": 0, "mean": 0.0}, {"episode": 1, "mean": value}]
            results = {"j_after_episode": points, "budgets": [0, 30], "accuracy_at_budget": [{"mean": value}] * 2}
            path.write_text(json.dumps({"results": results}))
    found = read_curves(tmp_path)
    assert found["grpo"]["j_after_episode"] == {"x": [0, 1], "seeds": [[0.0, 0.25], [0.0, 0.5]]}
    assert found["mrt_pooled"]["accuracy_at_budget"] == {"x": [0, 30], "seeds": [[0.25, 0.25], [0.5, 0.5]]}
    assert digest(found) != digest(read_curves())


def test_one_picture_for_one_set_of_numbers(tmp_path: Path) -> None:
    draw(read_curves(), tmp_path / "a.svg")
    assert main(["--out", str(tmp_path / "b.svg")]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
