"""Suites: YAML files that name environments and what is measured in them, and the run of one over trained policies.

    kind: control
    description: ...
    environments:
      five arms:
        tasks: {name: bernoulli-bandit, arms: 5, pulls: 10}
        count: 20000          # held-out tasks
        shown: [total, regret] # measures of the table, the first one first
        references: [Gittins]  # all that there are when left out
      pendulums:
        tasks: {gymnasium: Pendulum-v1, vary: {g: [5, 15]}}     # or env: my_package:MyEnv, with --allow-code

A folder holds one suite with the same policies: eval.json says which, chunks.jsonl grows by whole chunks and is never
written twice, results.json and report.html are made of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from mrt.control.agent import Agent, Shape
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.evaluation.measures import measure_of_name, measures_of
from mrt.control.evaluation.run import HELD_OUT, Chunk, bounds_of, evaluate_policy
from mrt.control.loading import load_agent
from mrt.errors import ConfigError, nearest
from mrt.report.tables import format_table
from mrt.runs.code import import_environments
from mrt.runs.fields import convert_fields
from mrt.runs.rundir import read_run, write_json
from mrt.runs.suites import read_suite
from mrt.runs.tracking import JsonLines

SCHEMA_VERSION = 1
CHUNKS = "chunks.jsonl"
KINDS = ("name", "gymnasium", "env")  # the options of `tasks` that say which environment it is


@dataclass(frozen=True)
class Entry:
    """One environment of a suite."""

    tasks: Mapping[str, Any] = field(default_factory=dict)
    count: int = 2000
    shown: list[str] = field(default_factory=lambda: ["total"])
    references: list[str] | None = None

    def make(self) -> EnvTasks:
        """p(M)."""
        return make_tasks(**self.tasks)


@dataclass(frozen=True)
class Suite:
    """A checked suite."""

    name: str
    description: str
    environments: Mapping[str, Entry]


@dataclass(frozen=True)
class Contender:
    """A trained policy: its name in tables, where it lies, and the tasks that it was trained on ({} where unknown)."""

    name: str
    path: str
    policy: Agent
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, entry: Entry, tasks: EnvTasks) -> bool:
        """Whether it plays this environment: the same kind where its training is known, and the same shapes."""
        same = not self.trained_on or kind_of(self.trained_on) == kind_of(entry.tasks)
        return same and self.policy.shape == Shape.of(tasks.env.spec)

    def unlike_training(self, entry: Entry) -> dict[str, list[Any]]:
        """{option: [trained with, measured with]} where they differ; {} where the training is unknown."""
        names = sorted({*self.trained_on, *entry.tasks} - {*KINDS, "split", "vectorization"}) if self.trained_on else []
        both = {name: [self.trained_on.get(name), entry.tasks.get(name)] for name in names}
        return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def kind_of(tasks: Mapping[str, Any]) -> str:
    """What kind of environment `tasks` name: one of ours, a Gymnasium id, or a class; "" where they name none."""
    return next((str(tasks[key]) for key in KINDS if tasks.get(key)), "")


def load_suite(path_or_name: str, allow_code: bool = False) -> Suite:
    """Reads a suite, see `mrt.runs.suites.read_suite`.

    Raises:
        ConfigError: for a file that is not a suite, an unknown key, environment, option or measure, and for an
            environment that is code from outside and not allowed.
    """
    return parse_suite(*read_suite(path_or_name), allow_code=allow_code)


def parse_suite(content: Mapping[str, Any], source: str, allow_code: bool = False) -> Suite:
    """A suite from what its file says; errors as for `load_suite`."""
    keys = {"kind", "description", "environments"}
    if content.get("kind") != "control":
        raise ConfigError(f"{source} is not a suite of `kind: control`")
    for key in content:
        if key not in keys:
            raise ConfigError(f"{source}: unknown key '{key}'; {nearest(str(key), keys)}")
    environments = content.get("environments")
    if not isinstance(environments, dict) or not environments:
        raise ConfigError(f"{source} names no environments (environments: {{name: {{tasks: ...}}}})")
    entries = {}
    for name, fields in environments.items():
        where = f"{source}: environments: {name}"
        if not isinstance(fields, dict) or not isinstance(fields.get("tasks"), dict):
            raise ConfigError(f"{where}: needs tasks ({{name: grid-navi, episodes: 4}})")
        entry = Entry(**convert_fields(Entry, fields, where))
        if not kind_of(entry.tasks) or entry.count < 2:
            raise ConfigError(f"{where}: needs tasks with a name, gymnasium or env, and a count of at least 2")
        if allow_code:
            import_environments(entry.tasks, allow_code)
        env = entry.make().env
        for shown in entry.shown:
            measure_of_name(shown, env.spec.episodes)
        entries[str(name)] = entry
    return Suite(Path(source).stem, str(content.get("description", "")), entries)


def read_contender(path: str, name: str | None = None, allow_code: bool = False) -> Contender:
    """A run directory, or the folder of a saved policy; errors as for `load_agent`."""
    folder = Path(path)
    policy = load_agent(folder, allow_code)
    trained_on: dict[str, Any] = {}
    for candidate in (folder, folder.parent):
        trained_on = trained_on or dict(read_run(candidate).get("recipe", {}).get("tasks") or {})
    return Contender(name or (folder.parent if folder.name == "model" else folder).name, path, policy, trained_on)


def run_suite(
    suite: Suite,
    contenders: Sequence[Contender],
    out: Path,
    *,
    count: int | None = None,
    seed: int = 0,
    greedy: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures the policies in every environment of the suite that one of them plays; in all of them without any.

    Args:
        count: tasks an environment, instead of what the suite says.
        greedy: the mode of the policies' distributions; False for draws.

    Returns:
        The contents of results.json.

    Raises:
        ConfigError: when no environment fits a policy, two policies share a name, or `out` holds another evaluation.
    """
    made = {name: entry.make() for name, entry in suite.environments.items()}
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise ConfigError(f"two policies share a name ({', '.join(names)}): give them others (--policy name=RUN)")
    pairs = {name: [c for c in contenders if c.fits(suite.environments[name], made[name])] for name in made}
    for contender in contenders:
        if not any(contender in found for found in pairs.values()):
            played = kind_of(contender.trained_on) or "unknown tasks"
            kinds = sorted({kind_of(entry.tasks) for entry in suite.environments.values()})
            raise ConfigError(
                f"{contender.path} (trained on {played}) fits nothing in suite '{suite.name}': {', '.join(kinds)}"
            )
    chosen = {n: replace(e, count=count or e.count) for n, e in suite.environments.items() if pairs[n] or not names}
    _claim(out, suite, chosen, contenders, seed=seed, greedy=greedy)
    results: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "kind": "control", "suite": suite.name}
    results |= {"description": suite.description, "seed": seed, "greedy": greedy, "environments": {}}
    for name, entry in chosen.items():
        found = _environment(name, entry, made[name], pairs[name], out=out, seed=seed, greedy=greedy, progress=progress)
        results["environments"][name] = found
    write_json(out / "results.json", _finite(results))
    return results


def _environment(
    name: str,
    entry: Entry,
    tasks: EnvTasks,
    contenders: Sequence[Contender],
    *,
    out: Path,
    seed: int,
    greedy: bool,
    progress: bool,
) -> dict[str, Any]:
    from mrt.control.evaluation.scenes import scenes

    file, done = JsonLines(out / CHUNKS), read_chunks(out / CHUNKS, name)
    bounded = bounds_of(tasks, tasks.batch(HELD_OUT + seed, [0])) is not None
    shown = [*entry.shown, *(m for m in measures_of(tasks.env, bounded) if m not in entry.shown)]
    try:
        found = evaluate_policy(
            {c.name: c.policy for c in contenders},
            tasks,
            count=entry.count,
            seed=seed,
            greedy=greedy,
            references=entry.references,
            measures=shown,
            done=done,
            save=lambda row: file.append([{"environment": name, **row}]),
            progress=progress,
        )
    finally:
        file.close()
    unlike = {c.name: other for c in contenders if (other := c.unlike_training(entry))}
    pictures = scenes(tasks, {c.name: c.policy for c in contenders}, seed, greedy)
    return {**found, "tasks": dict(entry.tasks), "shown": entry.shown, "unlike_training": unlike, "scenes": pictures}


def read_chunks(path: Path, name: str) -> list[Chunk]:
    """The chunks of one environment, in order; what a kill left of a last line is cut off."""
    if not path.is_file():
        return []
    rows, keep = [], 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            keep += len(line)
            row = json.loads(line)
            if row["environment"] == name:
                rows.append(row)
        file.truncate(keep)
    return rows


def _claim(
    out: Path, suite: Suite, chosen: Mapping[str, Entry], contenders: Sequence[Contender], *, seed: int, greedy: bool
) -> None:
    """Writes eval.json, or checks that the folder holds this very evaluation."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "kind": "control",
        "suite": suite.name,
        "environments": {name: asdict(entry) for name, entry in chosen.items()},
        "policies": {c.name: {"path": c.path, "weights": weights_digest(c.policy)} for c in contenders},
        "seed": seed,
        "greedy": greedy,
    }
    content = json.loads(json.dumps(content))
    path = out / "eval.json"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key, value in content.items() if there.get(key) != value]
    if changed:
        raise ConfigError(f"{out} holds another evaluation ({', '.join(changed)} differ). Cure: another --out")


def weights_digest(policy: Agent) -> str:
    """sha256 over every parameter and buffer: the same policy, wherever it lies."""
    digest = sha256()
    for name, value in sorted(policy.state_dict().items()):  # type: ignore[attr-defined]
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value


def suite_table(results: Mapping[str, Any]) -> str:
    """One line a player and environment: the first measure shown with its error, floor, ceiling and exact values."""
    rows = [["environment", "player", "measure", "mean", "SE", "floor", "ceiling", "relative regret"]]
    for name, found in results["environments"].items():
        key = found["shown"][0]
        bounds = [_show(found["bounds"].get(key, {}).get(side)) for side in ("floor", "ceiling")]
        for who, values in found["exact"].items():
            if key in values:
                rows.append([name, f"{who} (exact)", key, _show(values[key]), "", *bounds, ""])
        for who, player in found["players"].items():
            estimate, relative = player["measures"][key], player.get("relative_regret", {})
            cells = [_show(estimate["mean"]), _show(estimate["se"]), *bounds, _show(relative.get("mean"))]
            rows.append([name, who, key, *cells])
    return format_table(rows)


def _show(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4g}"
