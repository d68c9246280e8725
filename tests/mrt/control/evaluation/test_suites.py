"""Control suites: what is packaged loads, mistakes are named, an interrupted run ends the same, command, page."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from mrt.cli.main import main
from mrt.control.envs import make_tasks
from mrt.control.evaluation.report import write_report
from mrt.control.evaluation.report_plots import thinned
from mrt.control.evaluation.scenes import belief_cells, scenes
from mrt.control.evaluation.suites import CHUNKS, load_suite, parse_suite, read_contender, run_suite, suite_table
from mrt.control.policy import ControlPolicy
from mrt.errors import ConfigError, DataError
from mrt.report.plots import Series
from mrt.runs.rundir import write_json
from mrt.runs.suites import suite_names
from tests.support.report_pages import Page

pytestmark = pytest.mark.training

BANDIT = {"name": "bernoulli-bandit", "arms": 3, "pulls": 5}
TRAINER = "mrt.control.trainer:ControlTrainer"
NAVI = {"name": "grid-navi", "episodes": 2}


def suite(**environments: dict) -> dict:
    return {"kind": "control", "description": "for a test", "environments": environments}


def saved(folder: Path, tasks: dict, seed: int = 0, run: bool = True) -> Path:
    """A run directory with a fresh policy in it."""
    torch.manual_seed(seed)
    ControlPolicy.for_spec(make_tasks(**tasks).env.spec, hidden_size=8).save_pretrained(folder / "model")
    if run:
        write_json(folder / "run.json", {"schema_version": 1, "recipe": {"trainer": TRAINER, "tasks": tasks}})
    return folder


def test_packaged_suites_load() -> None:
    names = [name for name in suite_names() if name.startswith("control/")]
    assert set(names) >= {"control/bandits", "control/grids", "control/memory", "control/navigation"}
    for name in names:
        for entry in load_suite(name).environments.values():
            assert entry.count >= 200
    assert load_suite("evals/control/bandits.yaml").name == "bandits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (suite() | {"kind": "reasoning"}, "not a suite of `kind: control`"),
        (suite(), "names no environments"),
        (suite(a={"tasks": BANDIT}) | {"extra": 1}, "unknown key 'extra'"),
        (suite(a={"count": 4}), "needs tasks"),
        (suite(a={"tasks": BANDIT, "cuont": 4}), "did you mean 'count'"),
        (suite(a={"tasks": BANDIT, "count": 1}), "at least 2"),
        (suite(a={"tasks": {**BANDIT, "arm": 4}}), "did you mean 'arms'"),
        (suite(a={"tasks": {"arms": 4}}), "needs tasks with a name, gymnasium or env"),
        (suite(a={"tasks": {"env": "elsewhere:Rooms"}}), "code from outside mrt: allow it with --allow-code"),
        (suite(a={"tasks": BANDIT, "shown": ["episode_2"]}), "episodes 1 to 1"),
        (suite(a={"tasks": BANDIT, "shown": ["totals"]}), "did you mean 'total'"),
    ],
)
def test_mistakes_in_a_suite_are_named(content: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_suite(content, "suite.yaml")


def test_a_policy_plays_what_it_fits(tmp_path: Path) -> None:
    longer = {**BANDIT, "pulls": 9}
    found = parse_suite(suite(short={"tasks": BANDIT}, long={"tasks": longer}, navi={"tasks": NAVI}), "s.yaml")
    contender = read_contender(str(saved(tmp_path / "run", BANDIT)))
    results = run_suite(found, [contender], tmp_path / "out", count=4, progress=False)
    assert list(results["environments"]) == ["short", "long"]
    assert results["environments"]["short"]["unlike_training"] == {}
    assert results["environments"]["long"]["unlike_training"] == {"run": {"pulls": [5, 9]}}
    other = read_contender(str(saved(tmp_path / "navi", NAVI)))
    bandits = parse_suite(suite(short={"tasks": BANDIT}), "b.yaml")
    with pytest.raises(ConfigError, match=r"trained on grid-navi.*fits nothing in suite 'b': bernoulli-bandit"):
        run_suite(bandits, [other], tmp_path / "b", progress=False)
    with pytest.raises(ConfigError, match="share a name"):
        run_suite(found, [contender, contender], tmp_path / "c", progress=False)


PENDULUM = {"gymnasium": "Pendulum-v1", "vary": {"g": [5, 15]}, "episodes": 2, "episode_steps": 6}


def test_gymnasium_environments_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium", reason="the extra [control] is not installed")
    path = tmp_path / "mine.yaml"
    other = {**PENDULUM, "vary": {"g": [9, 20]}}
    arms = {"name": "gaussian-bandit", "arms": 2, "pulls": 3}
    path.write_text(yaml.safe_dump(suite(a={"tasks": PENDULUM}, b={"tasks": other}, c={"tasks": arms})))
    run, out = saved(tmp_path / "run", PENDULUM), tmp_path / "out"
    command = ["eval", str(path), "--policy", str(run), "--out", str(out), "--limit", "5", "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)["environments"]
    assert list(printed) == ["a", "b"], "a policy of Pendulum plays Pendulum"
    assert printed["a"]["unlike_training"] == {}
    assert printed["b"]["unlike_training"] == {"run": {"vary": [PENDULUM["vary"], other["vary"]]}}
    for found in printed.values():
        assert set(found["players"]) == {"run", "random"}
        for player in found["players"].values():
            assert -6 * 2 * 17 < player["measures"]["total"]["mean"] < 0
    assert (out / "report.html").is_file()


ROOMS = """
from mrt.control.envs.grids import DarkRoom


class Rooms(DarkRoom):
    pass
"""


def test_environments_of_others_are_measured_where_their_code_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rooms_of_others.py").write_text(ROOMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = {"env": "rooms_of_others:Rooms", "size": 3, "steps": 4, "episodes": 2}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite(a={"tasks": tasks})))
    run = saved(tmp_path / "run", {"name": "dark-room", "size": 3, "steps": 4, "episodes": 2})
    write_json(run / "run.json", {"schema_version": 1, "recipe": {"trainer": TRAINER, "tasks": tasks}})
    command = ["eval", str(path), "--policy", str(run), "--out", str(tmp_path / "out"), "--limit", "6", "--json"]
    assert main(command) == 2
    assert "allow it with --allow-code" in json.loads(capsys.readouterr().out)["error"]
    assert main([*command, "--allow-code"]) == 0
    assert "run" in json.loads(capsys.readouterr().out)["environments"]["a"]["players"]


def test_an_interrupted_suite_ends_in_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrt.control.evaluation.run.CHUNK", 10)
    found = parse_suite(suite(a={"tasks": BANDIT, "count": 30}, b={"tasks": NAVI, "count": 25}), "s.yaml")
    run_suite(found, [], tmp_path / "whole", progress=False)
    run_suite(found, [], tmp_path / "torn", progress=False)
    chunks = tmp_path / "torn" / CHUNKS
    lines = chunks.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    chunks.write_bytes(b"".join(lines[:4]) + lines[4][:50])  # killed within the second chunk of b
    (tmp_path / "torn" / "results.json").unlink()
    run_suite(found, [], tmp_path / "torn", progress=False)
    assert chunks.read_bytes() == (tmp_path / "whole" / CHUNKS).read_bytes()
    names = ("results.json", "eval.json")
    assert [(tmp_path / "torn" / n).read_text() for n in names] == [(tmp_path / "whole" / n).read_text() for n in names]


def test_a_folder_holds_one_evaluation(tmp_path: Path) -> None:
    found = parse_suite(suite(a={"tasks": BANDIT, "count": 6}), "s.yaml")
    run_suite(found, [read_contender(str(saved(tmp_path / "x", BANDIT)), "p")], tmp_path / "out", progress=False)
    other = read_contender(str(saved(tmp_path / "x", BANDIT, seed=1)), "p")  # other weights in the same place
    with pytest.raises(ConfigError, match=r"another evaluation \(policies differ\)"):
        run_suite(found, [other], tmp_path / "out", progress=False)
    with pytest.raises(ConfigError, match="another evaluation"):
        run_suite(found, [], tmp_path / "out", seed=1, progress=False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(suite(a={"tasks": BANDIT, "count": 500, "shown": ["total", "regret"]})))
    run, out = saved(tmp_path / "run", BANDIT), tmp_path / "out"
    command = ["eval", str(path), "--policy", f"gru={run}", "--out", str(out), "--limit", "20", "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["environments"]["a"]["n"] == 20
    assert set(printed["environments"]["a"]["players"]) >= {"gru", "Gittins", "random"}
    assert json.loads((out / "results.json").read_text()) == printed
    assert (out / "report.html").is_file()
    assert main([*command[:-3], "--limit", "21", "--json"]) == 2  # another evaluation in this folder
    assert "another --out" in json.loads(capsys.readouterr().out)["error"]
    assert main(["eval", str(path), "--policy", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "holds no policy" in capsys.readouterr().err


def test_the_page_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    hostile = "</style><script>x</script>{{ 7 * 7 }}"
    sign = {"name": "hallway", "half": 3, "dead_end": 1, "episodes": 5}
    content = suite(
        **{hostile: {"tasks": BANDIT, "count": 30}, "n": {"tasks": NAVI, "count": 20}, "h": {"tasks": sign}}
    )
    contenders = [
        read_contender(str(saved(tmp_path / "p1", BANDIT, run=False)), "<b>one</b>"),
        read_contender(str(saved(tmp_path / "p2", NAVI, run=False)), "two"),
        read_contender(str(saved(tmp_path / "p3", sign, run=False)), "three"),
    ]
    results = run_suite(parse_suite(content, "s.yaml"), contenders, tmp_path / "out", count=20, progress=False)
    assert hostile in suite_table(results)
    html = write_report(tmp_path / "out").read_text()
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("script", "b")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:,")), (tag, target)
    assert not re.search(r"url\((?!#)|@import", html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    # Adaptation, regret and a rollout each; Gittins' choices; where the exact belief led, and what it was.
    assert sum(tag == "svg" for tag, _ in page.tags) == 3 * 3 + 1 + 2
    assert "The darker a cell, the likelier" in page.text
    for text in (hostile, "<b>one</b>", "Gittins", "Bayes-optimal", "20 held-out tasks"):
        assert text in page.text


def test_a_report_needs_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished control evaluation"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("tasks", "kind"),
    [
        *((name, "path") for name in ("dark-room", "key-to-door", "maze", "dream-bus", "dream-map", "t-maze")),
        *((name, "path") for name in ("point-robot", "sparse-semicircle", "four-corners", "moving-bandits")),
        *((name, "choices") for name in ("restless-bandit", "two-step", "object-choice", "tabular-mdp", "cue-recall")),
    ],
)
def test_every_environment_has_a_picture(tasks: str, kind: str) -> None:
    from mrt.control.evaluation.report_plots import choices_figure, path_figure

    made = make_tasks(tasks)
    policy = ControlPolicy.for_spec(made.env.spec, hidden_size=8)
    (scene, *_) = scenes(made, {"p": policy}, 0, greedy=True)
    assert (scene["player"], scene["kind"]) == ("p", kind)
    json.dumps(scene, allow_nan=False)
    svg = path_figure("a", 1, scene) if kind == "path" else choices_figure("a", 1, scene, "pull")
    assert svg.startswith("<svg")
    assert "var(--arm-1)" in svg


def test_beliefs_are_drawn_over_time() -> None:
    """The exact belief of GridNavi: 21 cells alike at first, one at the end; a map for each of six moments, twice."""
    from mrt.control.evaluation.report_plots import belief_figure

    tasks = make_tasks("grid-navi", episodes=3)
    policy = ControlPolicy.for_spec(tasks.env.spec, hidden_size=8)
    learned, exact = scenes(tasks, {"p": policy}, 0, greedy=True)
    assert "believed" not in learned
    assert exact["player"] == "exact belief"
    goal = next([x, y] for name, x, y in exact["episodes"][0]["marks"] if name == "goal")
    assert len(exact["believed"]) == 21
    first, last = exact["episodes"][0]["beliefs"][0], exact["episodes"][1]["beliefs"][-1]
    assert first == [round(1 / 21, 3)] * 21
    assert exact["believed"][last.index(1.0)] == goal
    assert [len(episode["beliefs"]) for episode in exact["episodes"]] == [16, 16, 15]
    json.dumps(exact, allow_nan=False)
    svg = belief_figure("a", 1, exact)
    assert svg.startswith("<svg")
    assert belief_cells(tasks.env, 25) == [[x, y] for x in range(5) for y in range(5)]
    assert belief_cells(tasks.env, 7) == belief_cells(make_tasks("maze").env, 25) == []


def test_a_path_begins_at_the_start_and_ends_on_the_goal() -> None:
    tasks = make_tasks("hallway", half=2, episodes=2)
    policy = ControlPolicy.for_spec(tasks.env.spec, hidden_size=8)
    with torch.no_grad():
        policy.actor.bias.copy_(torch.tensor([100.0, 0, 0, 0]))  # always left
    (scene,) = scenes(tasks, {"p": policy}, 0, greedy=True)
    goal = next(x for name, x, _ in scene["episodes"][0]["marks"] if name == "goal")
    path = [x for x, _ in scene["episodes"][1]["path"]]
    assert path == ([0, -1, -2] if goal == -2 else [0, -1, -2, -2, -2, -2, -2])
    assert scene["cells"] == [[x, 0] for x in range(-2, 3)]


def test_long_curves_are_thinned() -> None:
    series = Series(1, list(range(1, 501)), [float(x) for x in range(500)])
    short = thinned(series)
    assert (len(short.x), short.x[0], short.x[-1], short.mean[-1]) == (120, 1, 500, 499.0)
    assert all(y == x - 1 for x, y in zip(short.x, short.mean, strict=True))
