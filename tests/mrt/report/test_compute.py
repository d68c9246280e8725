"""The part of the report on test-time compute: what is drawn of which results, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mrt.report.compute import HEAT_ROWS, compute_cards, environments, heat_maps, thinking_table
from mrt.report.data import Arm
from mrt.report.page import write_report
from tests.support.report_pages import Page, estimate, evaluation, read, sample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def compute(shift: float = 0.0) -> dict[str, Any]:
    """Every part of results.json that the report draws here."""
    curve = [{"episode": j, "n": 6, **estimate(0.2 + shift + 0.1 * j)} for j in range(3)]
    bins = [{"low": 0.1 * b, "high": 0.1 * b + 0.1, "n": 3, "forecast": 0.1 * b, "outcome": 0.1 * b} for b in range(10)]
    return {
        "pass_at_k": [{"k": k, "n": 3, **estimate(0.3 + shift + 0.1 * i)} for i, k in enumerate((1, 2, 4))],
        "maj_at_k": [{"k": k, "n": 3, **estimate(0.3 + shift)} for k in (1, 2, 4)],
        "regret_at_budget": [{"budget": b, **estimate(0.6 - shift)} for b in (8, 16)],
        "maj_after_episode": {"curves": [{"p": 1, "curve": curve}, {"p": 4, "curve": curve}]},
        "extrapolation": [{"budget": b, "tokens": b - 1, "cut": 0.1, **estimate(0.5 + shift)} for b in (32, 64)],
        "linearized": [{"budget": b, "tokens": b - 1, "cut": 0.1, **estimate(0.4 + shift)} for b in (8, 16, 32)],
        "calibration": {"at_end": {"n": 30, "ece": estimate(0.04), "brier": estimate(0.2), "curve": bins}},
        "thinking": {name: estimate(0.25) for name in ("overthinking", "underthinking", "reached")},
        "overthinking_adjusted": estimate(0.33),
        "contamination": {
            "n": 13, "files": ["train.jsonl"], "rows": 9, "checked": 3, "contaminated": 1,
            "accuracy_clean": estimate(0.4), "accuracy_contaminated": estimate(0.9),
            "problems": {"<b>k1": {"overlap": 0.5, "ngrams": 4, "where": "train.jsonl, row 2"}},
        },
        "environment": {"versions": {"torch": "2.0", "mrt": "0.1.0"}, "commit": "abc123", "machine": "x86_64"},
    }  # fmt: skip


def with_problems(folder: Path, count: int = 3, budgets: tuple[int, ...] = (0, 8, 16)) -> Path:
    rows = [
        {"key": f"<b>k{i}", "accuracy": [None if i == 0 and b == 0 else round((i + 1) / count, 2) for b in budgets]}
        for i in range(count)
    ]
    (folder / "problems.json").write_text(json.dumps({"schema_version": 1, "budgets": budgets, "problems": rows}))
    return folder


@pytest.fixture
def arms(tmp_path: Path) -> list[Path]:
    rows = [sample(key, number) for key in ("1,2,3->6", "4,5,6->30") for number in (0, 1)]
    return [
        with_problems(evaluation(tmp_path / name, name, rows, **compute(shift)))
        for name, shift in (("grpo", 0.0), ("mrt", 0.1))
    ]


def test_every_part_is_on_the_page(tmp_path: Path, arms: list[Path]) -> None:
    html, page, _ = read(write_report(tmp_path / "r.html", arms))
    for title in ("Normalised regret by cut-off", "pass@k", "maj@k", "Votes after each episode", "Linearized"):
        assert title in page.text
    assert "Beyond the training budget" in page.text
    assert "expected calibration error 0.040, Brier score 0.200" in page.text
    assert "1 of 3 problems share an n-gram of 13 words with train.jsonl (9 rows)" in " ".join(page.text.split())
    for section in ("compute", "heat", "contamination"):
        assert f'<section id="{section}">' in html
    assert "abc123" in page.text
    assert "<b>k1" not in html.split('type="application/json"')[0]  # keys reach titles and tables escaped
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_heat_maps_by_hand(arms: list[Path]) -> None:
    first, second = heat_maps([Arm("grpo", 0, arms[0]), Arm("mrt", 1, arms[1])])
    assert (first.shown, first.total, list(first.budgets)) == (3, 3, [0, 8, 16])
    assert first.svg == second.svg
    rects = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="3" ([^/]+)/>', first.svg)
    # By mean accuracy k2 (1.0), k1 (0.67), k0 (0.33, unknown at budget 0): equal neighbours are one rectangle.
    assert [(float(y), paint) for _, y, _, paint in rects] == [
        (0, 'fill-opacity="1.00"'),
        (3, 'fill-opacity="0.67"'),
        (6, 'class="gap"'),
        (6, 'fill-opacity="0.33"'),
    ]
    assert [round(float(width), 1) for _, _, width, _ in rects] == [100, 100, 33.3, 66.7]
    Page(f"<div>{first.svg}</div>")


def test_a_large_heat_map_is_thinned(tmp_path: Path) -> None:
    folder = with_problems(evaluation(tmp_path / "a", "a", [sample("k", 0)]), count=1000)
    (heat,) = heat_maps([Arm("a", 1, folder)])
    assert heat.total == 1000
    assert HEAT_ROWS / 2 < heat.shown <= HEAT_ROWS
    assert len(heat.svg) < 60_000


def test_missing_parts_are_left_out(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", "a", [sample("k", 0)])
    html, _, _ = read(write_report(tmp_path / "r.html", [folder]))
    assert not [name for name in ("compute", "heat", "contamination") if f'id="{name}"' in html]
    broken = {"pass_at_k": "x", "calibration": [], "maj_after_episode": {"curves": None}, "thinking": None}
    strange = {**broken, "regret_at_budget": [None, {"budget": None}], "extrapolation": [{}], "contamination": {"n": 1}}
    arm = Arm("a", 1, folder, results=strange)
    assert compute_cards([arm]) == []
    assert thinking_table([arm]) == []
    write_report(tmp_path / "s.html", [evaluation(tmp_path / "b", "b", [sample("k", 0)], **strange)])


def test_environments_stand_side_by_side() -> None:
    one = Arm("a", 1, Path("."), results={"environment": {"versions": {"torch": "2"}, "commit": "c"}})
    assert environments([one, Arm("b", 2, Path("."))]) == [("commit", ["c", "–"]), ("torch", ["2", "–"])]
    assert environments([Arm("b", 2, Path("."))]) == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser on the path")
def test_a_browser_without_a_network_shows_it_all(tmp_path: Path, arms: list[Path]) -> None:
    out = write_report(tmp_path / "r.html", arms)
    page = out.read_text("utf-8")
    # The page's own script, then clicks on every control; what came of them is written into the document.
    probe = """<script id="probe">addEventListener("load", () => {
      const errors = []; addEventListener("error", (event) => errors.push(event.message));
      document.querySelector('[data-switch="accuracy"] [data-view="log"]').click();
      const hidden = document.querySelector('[data-of="accuracy"][data-is="linear"]').hidden;
      const search = document.getElementById("search"); search.value = "4,5"; search.dispatchEvent(new Event("input"));
      const found = document.querySelectorAll("#list li").length;
      const filter = document.getElementById("filter"); filter.dispatchEvent(new Event("change"));
      location.hash = "#problem=" + encodeURIComponent("1,2,3->6");
      setTimeout(() => { document.body.dataset.probe = JSON.stringify({ hidden, found, errors,
        episodes: document.querySelectorAll("#problem .episode").length,
        rects: document.querySelectorAll(".heat rect").length,
        fetched: performance.getEntriesByType("resource").length }); }, 300);
    });</script>"""
    testable = tmp_path / "probed.html"
    policy = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", page)
    testable.write_text(policy.replace("</body>", probe + "</body>"), "utf-8")
    dom = browse(tmp_path, "--dump-dom", testable.as_uri())
    found = json.loads(re.search(r'data-probe="([^"]+)"', dom)[1].replace("&quot;", '"'))  # type: ignore[index]
    assert found == {"hidden": True, "found": 1, "errors": [], "episodes": 8, "rects": 8, "fetched": 0}
    untouched = browse(tmp_path, "--dump-dom", out.as_uri())  # under its own policy
    assert "2 of 2" in untouched


def browse(tmp_path: Path, *arguments: str) -> str:
    """Headless, every host unreachable."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=4000", "--window-size=1280,4200"]
    return subprocess.run([*command, *offline, *arguments], capture_output=True, timeout=600).stdout.decode()
