"""`mrt eval SUITE --policy RUN`: a policy beside oracles and baselines, all on the same held-out tasks and numbers.

Tasks are played in chunks; a chunk's tasks, noise and draws follow from (seed, chunk) alone, so that every player meets
the same numbers and results do not depend on where a run was interrupted. What is kept of a chunk are moments, which
join exactly: 100,000 tasks take as much room as 2,000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from tqdm.auto import tqdm

from mrt.control.agent import Agent, Entrant, RandomAgent, Shape
from mrt.control.envs import EnvTasks
from mrt.control.evaluation.measures import (
    Moments,
    Outcomes,
    choices_of,
    has_means,
    measure,
    measures_of,
    unit_of,
    watch,
)
from mrt.control.oracles import Bounds, task_bounds
from mrt.control.oracles.references import Player, exact_values, players
from mrt.errors import ConfigError, nearest

HELD_OUT = 1 << 40  # added to the seed: a run's own tasks are those of seeds below
CHUNK = 2000
FOREIGN_CHUNK = 100  # environments of others, each an object of its own
STEPS_A_CHUNK = 1_000_000  # rows times steps in memory at once
RANDOM = "random"
Chunk = dict[str, Any]


class Measured(NamedTuple):
    """A measure's mean over tasks with its standard error, beside random play and the known-task optimum.

    `floor` and `ceiling` are exact for returns and regret; elsewhere the floor is random play on the same tasks, and
    the ceiling None.
    """

    mean: float
    se: float
    n: int
    floor: float | None
    ceiling: float | None


def measure_policy(
    policy: Agent, tasks: EnvTasks, name: str, count: int = 2000, seed: int = 0, **options: Any
) -> Measured:
    """One measure of one policy (`MEASURES` of measures.py, or episode_2, ...) on `count` held-out tasks.

    `options` are those of `evaluate_policy`; only random play is measured too, unless they say otherwise.

    Raises:
        ConfigError: for an unknown measure.
    """
    found = evaluate_policy(
        policy, tasks, count=count, seed=seed, measures=[name], **{"references": (), "progress": False, **options}
    )
    ours = found["players"]["policy"]["measures"][name]
    bounds = found["bounds"].get(name, {})
    return Measured(ours["mean"], ours["se"], found["n"], bounds.get("floor"), bounds.get("ceiling"))


def evaluate_policy(
    policy: Agent | Mapping[str, Agent] | None,
    tasks: EnvTasks,
    *,
    count: int = 2000,
    seed: int = 0,
    greedy: bool = True,
    references: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    chunk: int | None = None,
    done: Sequence[Chunk] = (),
    save: Callable[[Chunk], None] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Plays one trial of `count` held-out tasks with every player and says what they got.

    Args:
        policy: one, several by name, or None for the references alone. They keep their memory over a trial.
        greedy: the mode of a policy's distribution; False for draws.
        references: names of `mrt.control.oracles.references.players`; all of them when left out. Random play is always
            there.
        measures: names; those that say something of this environment when left out.
        chunk: tasks at once.
        done, save: chunks that an earlier run saved, in order; who is given each further one.

    Returns:
        The contents of one environment in results.json, see `summarise`.

    Raises:
        ConfigError: for an unknown reference or measure, or a policy of another shape than the environment.
    """
    policies = {"policy": policy} if isinstance(policy, Agent) else dict(policy or {})
    most = CHUNK if tasks.env.on_tensors else FOREIGN_CHUNK
    size = chunk or max(1, min(most, STEPS_A_CHUNK // tasks.env.spec.trial_steps))
    starts = range(0, count, size)
    entrants = _entrants(tasks, policies, greedy, references)
    rows = list(done[: len(starts)])
    shown = {} if progress else {"disable": True}
    with tqdm(total=count, initial=min(len(rows) * size, count), desc=tasks.name, unit="task", **shown) as bar:
        for number in range(len(rows), len(starts)):
            indices = range(starts[number], min(starts[number] + size, count))
            row = play_chunk(
                tasks, entrants, learned=list(policies), seed=seed, number=number, indices=indices, measures=measures
            )
            rows.append(row)
            if save is not None:
                save(row)
            bar.update(len(indices))
    return summarise(tasks, rows, list(policies), measures)


def _entrants(
    tasks: EnvTasks, policies: Mapping[str, Agent], greedy: bool, references: Sequence[str] | None
) -> dict[str, Player]:
    """Everybody who plays, by name."""
    spec, known = tasks.env.spec, players(tasks.env)
    for name in references or ():
        if name not in known:
            raise ConfigError(f"'{name}' does not play {tasks.name}; {nearest(name, set(known))}")
    entrants: dict[str, Player] = {}
    for name, policy in policies.items():
        shape = policy.shape
        if shape is not None and shape != Shape.of(spec):
            raise ConfigError(
                f"policy '{name}' sees {shape.observation} numbers and has {shape.actions or shape.action_size} "
                f"actions; {tasks.name} shows {spec.observation} and takes {spec.actions or spec.action_size}"
            )
        if name in known or name == RANDOM:
            raise ConfigError(f"a policy is called '{name}', as a baseline of {tasks.name} is: give it another name")
        entrants[name] = _learned(policy, greedy)
    entrants |= {name: known[name] for name in (known if references is None else references)}
    return {**entrants, RANDOM: lambda params, seed: RandomAgent(spec, seed)}


def _learned(policy: Agent, greedy: bool) -> Player:
    return lambda params, seed: Entrant(policy, greedy, seed)


def bounds_of(tasks: EnvTasks, params: Mapping[str, Tensor]) -> Bounds | None:
    """Floor and ceiling of each task; None where the environment has none."""
    try:
        return task_bounds(tasks.env, params)
    except NotImplementedError:
        return None


def play_chunk(
    tasks: EnvTasks,
    entrants: Mapping[str, Player],
    *,
    learned: Sequence[str],
    seed: int,
    number: int,
    indices: Iterable[int],
    measures: Sequence[str] | None = None,
) -> Chunk:
    """The moments of every player on the tasks of one chunk; JSON-able."""
    params = tasks.batch(HELD_OUT + seed, list(indices))
    bounds = bounds_of(tasks, params)
    names = list(measures or measures_of(tasks.env, bounds is not None))
    noise = (seed * 1_000_003 + number) % 2**31
    row: Chunk = {"chunk": number, "n": len(next(iter(params.values()))), "players": {}}
    totals: dict[str, Tensor] = {}
    for name, make in entrants.items():
        outcomes, _ = watch(tasks.env, make(params, noise), params, seed=noise, bounds=bounds)
        totals[name] = outcomes.total
        row["players"][name] = _moments(outcomes, names)
    for name in learned:
        differences = {other: Moments.of(totals[name] - totals[other]) for other in entrants if other != name}
        row["players"][name]["minus"] = {other: found.to_json() for other, found in differences.items()}
    if bounds is not None:
        row["bounds"] = {side: Moments.of(value).to_json() for side, value in bounds._asdict().items()}
    return row


def _moments(outcomes: Outcomes, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"measures": {name: Moments.of(measure(name, outcomes)).to_json() for name in names}}
    found["earned"] = Moments.of(outcomes.earned).to_json()
    if outcomes.lost is not None and outcomes.span is not None:
        lost = outcomes.lost.sum(1)
        found["lost"] = Moments.of(outcomes.lost.cumsum(1)).to_json()
        # Three variances give the covariance that the ratio's standard error needs.
        parts = {"lost": lost, "span": outcomes.span, "both": lost + outcomes.span}
        found["relative"] = {name: Moments.of(part).to_json() for name, part in parts.items()}
    return found


# ---- from moments to what is printed


def summarise(
    tasks: EnvTasks, rows: Sequence[Chunk], learned: Sequence[str], measures: Sequence[str] | None = None
) -> dict[str, Any]:
    """The contents of one environment in results.json.

    players: {name: {kind, measures {name: {mean, se}}, relative_regret, curve and regret_curve {mean, se} over units
    (regret is cumulative), minus {other: {mean, se}} on equal tasks}}; bounds: {measure: {floor, ceiling}}; exact:
    {who: {measure: value}}.
    """
    env, n = tasks.env, sum(row["n"] for row in rows)
    found: dict[str, Any] = {"task": tasks.name, "n": n, "unit": unit_of(env), "players": {}}
    for name in rows[0]["players"]:
        kind = "policy" if name in learned else ("random" if name == RANDOM else "baseline")
        parts = [(row["n"], row["players"][name]) for row in rows]
        player: dict[str, Any] = {"kind": kind, "measures": {}}
        for key in parts[0][1]["measures"]:
            player["measures"][key] = _estimate(_join((k, part["measures"][key]) for k, part in parts))
        player["curve"] = _estimate(_join((k, part["earned"]) for k, part in parts))
        if "lost" in parts[0][1]:
            player["regret_curve"] = _estimate(_join((k, part["lost"]) for k, part in parts))
            sums = [_join((k, part["relative"][each]) for k, part in parts) for each in ("lost", "span", "both")]
            player["relative_regret"] = _ratio(*sums)
        if kind == "policy":
            others = parts[0][1]["minus"]
            player["minus"] = {o: _estimate(_join((k, part["minus"][o]) for k, part in parts)) for o in others}
        found["players"][name] = player
    sides = {}
    if "bounds" in rows[0]:
        sides = {side: float(_join((row["n"], row["bounds"][side]) for row in rows).mean) for side in Bounds._fields}
    names = list(found["players"][RANDOM]["measures"])
    found["bounds"] = {name: _bounds(tasks, name, sides, found["players"][RANDOM]) for name in names}
    found["exact"] = exact_values(env)
    return found


def _join(parts: Iterable[tuple[int, Any]]) -> Moments:
    read = [Moments.read(n, part) for n, part in parts]
    whole = read[0]
    for part in read[1:]:
        whole = whole + part
    return whole


def _estimate(moments: Moments) -> dict[str, Any]:
    return {"mean": moments.mean.tolist(), "se": moments.se.tolist()}


def _ratio(lost: Moments, span: Moments, both: Moments) -> dict[str, float]:
    """sum(lost) / sum(span): 0 as the known-task optimum, 1 as random play; standard error by the delta method."""
    if float(span.mean) <= 0:
        return {"mean": float("nan"), "se": float("nan")}
    ratio = float(lost.mean / span.mean)
    covariance = (both.m2 - lost.m2 - span.m2) / 2
    residual = (lost.m2 - 2 * ratio * covariance + ratio**2 * span.m2).clamp(min=0)
    return {"mean": ratio, "se": float((residual / max(lost.n - 1, 1) / lost.n).sqrt() / span.mean)}


def _bounds(
    tasks: EnvTasks, name: str, sides: Mapping[str, float], random: Mapping[str, Any]
) -> dict[str, float | None]:
    """Floor and ceiling of a measure: exact where they follow from those of the return, else random play and None."""
    spec = tasks.env.spec
    played = {"floor": random["measures"][name]["mean"], "ceiling": None}
    if not sides:
        return played
    floor, ceiling = sides["floor"], sides["ceiling"]
    paid = spec.episodes - spec.free_episodes
    if name == "total":
        return {"floor": floor, "ceiling": ceiling}
    if name == "regret":
        return {"floor": ceiling - floor, "ceiling": 0.0}
    if name == "per_trial":
        return {"floor": floor / choices_of(tasks.env), "ceiling": ceiling / choices_of(tasks.env)}
    if name == "last_episode" or name.startswith("episode_"):
        number = spec.episodes if name == "last_episode" else int(name.split("_")[1])
        if number > spec.free_episodes and not has_means(tasks.env):
            return {"floor": floor / paid, "ceiling": ceiling / paid}
    return played
