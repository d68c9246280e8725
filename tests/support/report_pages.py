"""Made-up evaluation and run directories for the report's tests, and a strict reader of the page."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Tags, attributes and script contents; raises where an element is closed that is not the open one."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.text += data


def estimate(mean: float, reach: float = 0.02) -> dict[str, float]:
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def sample(key: str, number: int, verdict: str = "correct", **changes: Any) -> dict[str, Any]:
    row = {
        "key": key,
        "sample": number,
        "prompt": f"make {key}",
        "data": {"target": 22},
        "thought": "3+5=8✗\n\nWait,3*5=15✓",
    }
    row |= {"answer": "3*5+7", "verdict": verdict, "reward": float(verdict == "correct"), "thinking_tokens": 14}
    row |= {"tokens": 21, "truncated": False, "stop_values": [0.1, 0.3, 0.25], "stop_value_se": [0.01, 0.02, 0.03]}
    row["episodes"] = [{"text": "3+5=8✗", "tokens": 6, "end": 6}, {"text": "\n\nWait,3*5=15✓", "tokens": 8, "end": 14}]
    row["forced"] = [{"budget": 8, "answer": "3+5+7", "verdict": "wrong", "reward": 0.0}]
    return row | changes


def evaluation(folder: Path, name: str, rows: list[dict[str, Any]], accuracy: float = 0.4, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    config = {"schema_version": 1, "name": name, "model": f"runs/{name}", "budgets": [0, 8, 16], "seed": 0}
    results: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "n_problems": 3,
        "n_samples": 2,
        "budgets": [0, 8, 16],
    }
    results |= {"accuracy": estimate(accuracy), "tokens": estimate(50, 2), "normalised_regret": estimate(1 - accuracy)}
    results["accuracy_at_budget"] = [estimate(accuracy * share) for share in (0.3, 0.7, 1)]
    results["j_after_episode"] = [{"episode": j, "n": 10, **estimate(0.1 + 0.1 * j)} for j in range(3)]
    results["progress"] = [{"episode": j, "n": 10, **estimate(0.1)} for j in (1, 2)]
    results["verdicts"] = {"wrong": 3, "correct": 1}
    (folder / "eval.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(results | changes))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def training(folder: Path, rows: int = 30) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"schema_version": 1, "command": "mrt train", "recipe": {"steps": rows}})
    )
    logged = [
        {"step": step, "time": 1.7e9 + 30 * step, "cost": 1000 * step, "reward": 0.2 + step / 100, "progress/mean": 0.1}
        for step in range(1, rows + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    return folder


def read(path: Path) -> tuple[str, Page, dict[str, Any]]:
    html = path.read_text("utf-8")
    page = Page(html)
    return html, page, json.loads(page.scripts[0])
