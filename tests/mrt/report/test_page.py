"""The report as a file: what it says, that it fetches nothing, and that no text from a model becomes markup."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from mrt.errors import ConfigError, DataError
from mrt.report.data import Arm
from mrt.report.page import headline, show, verdict_shares, write_report
from tests.support.report_pages import estimate, evaluation, read, sample, training

pytestmark = pytest.mark.training

HOSTILE = [
    "</script><script>window.pwned=1</script>",
    "<img src=http://evil.example/x onerror=window.pwned=1>",
    '"><svg onload=window.pwned=1>',
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    r"$\frac{",
    "\ud800 lone surrogate",
    "nul \0 bell \a, line \u2028 paragraph \u2029, \u202e backwards",
    "& &amp; &lt;",
    "100%",
]


@pytest.fixture
def two_arms(tmp_path: Path) -> list[Path]:
    keys = ["3,5,7->22", "1,2,3->6", "4,5,6->30"]
    good = [sample(key, number) for key in keys for number in (0, 1)]
    poor = [sample(key, number, "wrong") for key in keys for number in (0, 1)]
    return [evaluation(tmp_path / "grpo", "grpo", poor, 0.3), evaluation(tmp_path / "mrt", "mrt", good, 0.5)]


def test_one_file_that_fetches_nothing(tmp_path: Path, two_arms: list[Path]) -> None:
    runs = [training(tmp_path / "runs" / "mrt"), training(tmp_path / "runs" / "grpo")]
    comparison = {"a": "mrt", "b": "grpo", "accuracy": estimate(0.2), "note": "equal cost"}
    out = write_report(tmp_path / "deep" / "report.html", two_arms, runs, comparisons=[comparison])
    html, page, _ = read(out)
    assert html.startswith("<!DOCTYPE html>")
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:,")), (tag, target)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    anchors = {str(a["href"])[1:] for _, a in page.tags if str(a.get("href", "")).startswith("#")}
    assert anchors <= set(ids)
    assert not re.search(r"#0[ab]00\d\d", html)  # every placeholder colour became a variable
    assert not (tmp_path / "deep" / "report.html.part").exists()


def test_the_page_holds_every_part(tmp_path: Path, two_arms: list[Path]) -> None:
    comparison = {"a": "mrt", "b": "grpo", "accuracy": estimate(0.2), "tokens_at_equal_accuracy": estimate(2, 0.5)}
    out = write_report(tmp_path / "r.html", two_arms, [training(tmp_path / "runs" / "mrt")], comparisons=[comparison])
    html, page, _ = read(out)
    for section in ("results", "curves", "training", "verdicts", "problems", "configuration"):
        assert f'<section id="{section}">' in html
    for said in (
        "50.0%",
        "48.0% to 52.0%",
        "2.00×",
        "+20.0",
        "▲ better",
        "J after each episode",
        "reward",
        "wall clock",
    ):
        assert said in page.text, said
    assert html.count('data-of="accuracy"') == 2  # linear and logarithmic
    assert html.count('data-of="training"') == 6  # reward and progress over steps, cost and wall clock


def test_a_note_stands_below_the_title(tmp_path: Path, two_arms: list[Path]) -> None:
    noted, _, _ = read(write_report(tmp_path / "noted.html", two_arms, title="Two arms", note="Both cost <the same>."))
    assert re.search(r"<h1>Two arms</h1>\s*<p class=\"note\">Both cost &lt;the same&gt;\.</p>", noted)
    plain, _, _ = read(write_report(tmp_path / "plain.html", two_arms, title="Two arms"))
    assert re.search(r"<h1>Two arms</h1>\s*<nav", plain)


def test_traces_are_embedded_whole(tmp_path: Path, two_arms: list[Path]) -> None:
    _, _, data = read(write_report(tmp_path / "r.html", two_arms))
    assert [arm["name"] for arm in data["arms"]] == ["grpo", "mrt"]
    assert data["baseline"] == "grpo"
    assert [problem["key"] for problem in data["problems"]] == ["3,5,7->22", "1,2,3->6", "4,5,6->30"]
    first = data["problems"][0]
    assert [[one["verdict"] for one in samples] for samples in first["samples"]] == [["wrong"] * 2, ["correct"] * 2]
    assert first["samples"][1][0] == {
        "verdict": "correct",
        "answer": "3*5+7",
        "thinking": 14,
        "tokens": 21,
        "episodes": [["3+5=8✗", 6, 6], ["\n\nWait,3*5=15✓", 8, 14]],
        "J": [0.1, 0.3, 0.25],
        "se": [0.01, 0.02, 0.03],
        "forced": [[8, "3+5+7", "wrong"]],
    }


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    rows = [
        sample(
            text, 0, text, prompt=text, answer=text, data={text: text}, episodes=[{"text": text, "tokens": 1, "end": 1}]
        )
        for text in HOSTILE
    ]
    arms = [
        evaluation(tmp_path / f"arm{i}", text, rows, model=text, verdicts={text: 1})
        for i, text in enumerate(HOSTILE[:6])
    ]
    comparison = {"a": HOSTILE[0], "b": HOSTILE[1], "accuracy": estimate(0.1), "note": HOSTILE[2]}
    run = training(tmp_path / "run")
    (run / "run.json").write_text(json.dumps({"name": HOSTILE[0], "recipe": dict.fromkeys(HOSTILE, HOSTILE)}))
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, HOSTILE[0]: i, HOSTILE[5]: i}) + "\n" for i in range(3))
    )
    out = write_report(tmp_path / "r.html", arms, [run], title=HOSTILE[0], comparisons=[comparison])
    html, page, data = read(out)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert "{{ 7 * 7 }}" in page.text  # no template runs over a name
    clean = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    assert [problem["key"] for problem in data["problems"]] == clean
    assert [problem["samples"][0][0]["episodes"][0][0] for problem in data["problems"]] == clean
    assert "<" not in page.scripts[0]
    assert html.count("</script>") == 2


def test_nan_and_none_leave_gaps(tmp_path: Path) -> None:
    rows = [sample("k", 0, stop_values=[0.1, float("nan"), None], stop_value_se=None, forced=None, reward=None)]
    rows.append(sample("k", 1, episodes=[], thought="not segmented", stop_values=[], answer=None))
    nothing = {"mean": None, "low": float("nan"), "high": None}
    curve = [{"episode": 0, "n": 3, "mean": 0.1, "low": None, "high": None}, {"episode": 1, "n": None, **nothing}]
    arm = evaluation(
        tmp_path / "a", "a", rows, accuracy=0.4, normalised_regret=nothing, tokens=None, j_after_episode=curve,
        progress=[{"episode": 1, **nothing}], accuracy_at_budget=[nothing] * 3, verdicts=None,
    )  # fmt: skip
    html, page, data = read(write_report(tmp_path / "r.html", [arm]))
    assert "NaN" not in page.scripts[0]
    assert ">nan" not in html.lower()
    assert data["problems"][0]["samples"][0][0]["J"] == [0.1, None, None]
    assert data["problems"][0]["samples"][0][1]["thought"] == "not segmented"
    assert "Progress per episode" not in page.text
    assert "J after each episode" in page.text
    assert "Normalised regret</th>" not in html
    assert 'id="verdicts"' not in html


def test_missing_pieces_leave_their_part_out(tmp_path: Path, two_arms: list[Path]) -> None:
    (two_arms[0] / "results.json").unlink()
    (two_arms[1] / "samples.jsonl").unlink()
    html, page, data = read(write_report(tmp_path / "r.html", two_arms))
    assert 'id="training"' not in html
    assert "no results.json" in page.text
    assert data["problems"][0]["samples"][1] == []
    html, page, data = read(write_report(tmp_path / "runs.html", [], [training(tmp_path / "run")]))
    assert 'id="training"' in html
    assert 'id="results"' not in html
    assert data["problems"] == []


def test_same_data_same_bytes(tmp_path: Path, two_arms: list[Path]) -> None:
    runs = [training(tmp_path / "run")]
    first = write_report(tmp_path / "1.html", two_arms, runs).read_bytes()
    assert write_report(tmp_path / "2.html", two_arms, runs).read_bytes() == first


def test_full_size_stays_small(tmp_path: Path) -> None:
    rows = [sample(f"{key}->22", number) for key in range(1000) for number in range(4)]
    arms = [evaluation(tmp_path / name, name, rows) for name in ("warmstart", "grpo", "mrt")]
    out = write_report(tmp_path / "r.html", arms)
    _, page, data = read(out)
    assert out.stat().st_size < 15e6
    assert len(data["problems"]) == 200
    assert all(len(s) == 4 for p in data["problems"] for s in p["samples"])
    assert "200 of 1,000 problems, drawn with seed 0" in page.text


def test_mistakes_are_named(tmp_path: Path, two_arms: list[Path]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'grpo'"):
        write_report(tmp_path / "r.html", two_arms, baseline="grpp")
    with pytest.raises(ConfigError, match="at least one"):
        write_report(tmp_path / "r.html", [])
    with pytest.raises(ConfigError, match="is a directory"):
        write_report(tmp_path, two_arms)
    with pytest.raises(DataError, match=r"holds no evaluation.*mrt eval"):
        write_report(tmp_path / "r.html", [tmp_path])
    with (two_arms[1] / "samples.jsonl").open("a") as lines:
        lines.write('{"key": "torn')
    with pytest.raises(DataError, match=r"mrt.samples\.jsonl, line 7: not JSON"):
        write_report(tmp_path / "r.html", two_arms)
    assert not (tmp_path / "r.html").exists()


def test_headline_by_hand() -> None:
    results = {"accuracy": {"mean": 0.5, "low": 0.4, "high": 0.6}, "j_after_episode": [{"episode": 0, "mean": 0.1}]}
    arms = [Arm("grpo", 0, Path("."), results={"accuracy": 0.2}), Arm("mrt", 1, Path("."), results=results)]
    comparison = {"a": "grpo", "b": "mrt", "tokens_at_equal_accuracy": {"mean": 0.5, "low": 0.4, "high": 0.8}}
    accuracy, floor, ratio = headline(arms, [comparison], "grpo")
    assert (accuracy.low, accuracy.high) == pytest.approx((0.2 - 0.024, 0.6 + 0.024))  # 6% of 0.4 on either side
    assert accuracy.place(0.4) == pytest.approx(50)
    assert [cell.mean for cell in floor.cells] == [None, 0.1]
    saved = ratio.cells[1]  # the comparison stood the other way round: 1 / 0.5, 1 / 0.8, 1 / 0.4
    assert (saved.mean, saved.low, saved.high) == pytest.approx((2, 1.25, 2.5))
    assert ratio.cells[0].mean is None


def test_verdict_shares_from_counts_and_from_shares() -> None:
    assert verdict_shares({"verdicts": {"odd": 1, "wrong": 2, "correct": 1}}) == [
        ("correct", 0.25, 1), ("wrong", 0.5, 2), ("odd", 0.25, 1),
    ]  # fmt: skip
    assert [share for _, share, _ in verdict_shares({"verdicts": {"correct": 0.4, "wrong": 0.6}})] == [0.4, 0.6]
    assert verdict_shares({}) == []
    assert verdict_shares({"verdicts": {"correct": 0}}) == []


def test_show() -> None:
    assert [show(0.1234, "percent"), show(-0.031, "points"), show(-0.0001, "difference")] == ["12.3%", "−3.1", "+0.000"]
    assert [show(None, "ratio"), show(1.5, "ratio"), show(51.26, "tokens"), show(16384.4, "tokens")] == [
        "–", "1.50×", "51.3", "16,384",
    ]  # fmt: skip


def test_importing_the_report_is_cheap() -> None:
    code = "import sys, mrt.report.page; print([m for m in ('matplotlib', 'jinja2', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the chromium browser")
def test_a_deep_link_opens_the_problem_in_a_browser(tmp_path: Path) -> None:
    rows = [sample(text, 0, episodes=[{"text": text, "tokens": 1, "end": 1}]) for text in HOSTILE]
    out = write_report(tmp_path / "r.html", [evaluation(tmp_path / "a", HOSTILE[0], rows)])
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    link = f"{out.as_uri()}#problem={quote(HOSTILE[1], safe='')}"
    done = subprocess.run(
        [*command, "--virtual-time-budget=3000", "--dump-dom", link], capture_output=True, timeout=120
    )
    dom = done.stdout.decode()
    shown = dom[dom.index('<main id="problem">') : dom.index('<script type="application/json"')]  # no longer hidden
    assert '<main id="report" hidden="">' in dom
    assert shown.count('class="episode') == 3  # before any thinking, the episode, the answer
    assert "&lt;img src=http://evil.example/x onerror=window.pwned=1&gt;" in shown
    assert "<img" not in shown
    assert "<b>0.30</b> ± 0.02" in shown
    assert "▲ +0.20" in shown
    assert "1 of 1" not in shown
    assert f"2 of {len(HOSTILE)}" in shown
