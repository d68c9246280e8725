"""What probes cost: sampled ones beside prefilling every prefix again, and exact ones beside sampled ones.

    python -m evals.speed.probes             a table
    python -m evals.speed.probes --json      the same as one object

Traces of 512 tokens are stopped at 8 boundaries. Wall clock; all sides of a case take turns in one process, and a ratio
is the median over the repetitions.

reprefill_over_shared   4 answers of exactly 12 tokens at every boundary. Shared: one pass over each trace, then the
                        answers of its boundaries behind its keys and values. Reprefill: the prefixes, padded on
                        the left, through Hugging Face `generate` with num_return_sequences=4; all of them in one
                        call, and, where so large a batch is no help, those of one trace at a time.
gold_over_sampled       How many times as long the sampled probe (4 answers of 12 tokens) takes as the gold probe, which
                        sums the probability of the 8 solutions (at most 8 tokens each, the closing brace among them).
                        Both begin with a pass over the traces; `behind_the_pass` is the same where keys and values were
                        kept from acting, as in training.

tokens_over_floor       Positions that run through the model from the end of sampling until the sampled probe is done,
                        counted by a forward hook, over the least that any probe needs: prompt and trace once, the
                        closing suffix once a boundary, each answer token once. `kept` has keys and values from acting.

Positions are those through the model without padding. Nothing is graded in either probe.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from evals.speed.common import compare, interleaved, parser, say, show, summary
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.cache import keep_row
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.loading import load_model
from mrt.reasoning.models.tiny import RIGHT, WAIT, WRONG, build_model, build_tokenizer
from mrt.reasoning.probes.base import Probe, Trace
from mrt.reasoning.probes.forced import Sampled
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.problems import Problem, load_problems
from mrt.reasoning.problems.expressions import draw_attempt
from mrt.reasoning.traces.prompts import ThinkFormat, render, think_format

SOLUTIONS = 8
TOLERANCES = (0.0, 0.02)
AT_ONCE, ONE_BY_ONE = "all prefixes at once", "a trace at a time"


@dataclass(frozen=True)
class Sizes:
    """What is asked of the traces, and their length in tokens (the prompt aside)."""

    trace: int = 512
    boundaries: int = 8
    samples: int = 4
    answer: int = 12


@dataclass(frozen=True)
class Shape:
    """A model (hidden, layers, heads), with how many traces it is measured on, and how often."""

    model: tuple[int, int, int]
    traces: int
    repetitions: int


SHAPES = {"0.5M": Shape((128, 3, 4), 8, 3), "26M": Shape((512, 10, 8), 2, 3)}
SMOKE_SIZES, SMOKE_SHAPES = Sizes(trace=32, boundaries=2, samples=2, answer=3), {"smoke": Shape((32, 2, 2), 2, 1)}


@dataclass(frozen=True)
class Bench:
    """A model with traces to be probed; `fmt` never ends an answer before its last token."""

    model: Any
    fmt: ThinkFormat
    traces: Sequence[Trace]
    sizes: Sizes

    def engine(self) -> TransformersEngine:
        """A fresh one: nothing counted yet."""
        return TransformersEngine(self.model, self.fmt.tokenizer.pad_token_id)

    def kept(self) -> Bench:
        """The same traces with their keys and values, as they are after acting."""
        prefix = self.engine().prefill([(*trace.prompt, *trace.thought) for trace in self.traces])
        rows = [keep_row(prefix.cache, i, torch.arange(int(n))) for i, n in enumerate(prefix.lengths)]
        return replace(self, traces=[replace(t, kept=row) for t, row in zip(self.traces, rows, strict=True)])


def make_bench(model: Any, tokenizer: Any, count: int, sizes: Sizes) -> Bench:
    """`count` search traces on Countdown problems with three numbers and 8 solutions, cut at even distances."""
    fmt = replace(think_format(tokenizer), answer_stop_ids=(), max_answer_tokens=sizes.answer)
    problem_set = load_problems("countdown", numbers=3, high=25, train=1000, warmstart=0, test=0)
    rng, traces = random.Random(0), []
    cuts = tuple(sizes.trace * (k + 1) // sizes.boundaries for k in range(sizes.boundaries))
    for problem in problem_set.problems("train"):
        solutions = problem_set.solutions(problem)
        if len(solutions) != SOLUTIONS or max(map(len, Gold.solution_ids(solutions, fmt))) > 8:
            continue
        prompt = render(tokenizer, [{"role": "user", "content": problem.prompt}])
        thought = tuple(search(problem, tokenizer, sizes.trace, rng))
        traces.append(Trace(tuple(prompt), thought, cuts, {"solutions": solutions, "key": problem.key}))
        if len(traces) == count:
            return Bench(model.eval(), fmt, traces, sizes)
    raise AssertionError(f"fewer than {count} problems have {SOLUTIONS} solutions")


def search(problem: Problem, tokenizer: Any, length: int, rng: random.Random) -> list[int]:
    """Ids of attempts at the problem, drawn at random and worked out, `length` of them."""
    data, ids = problem.data, list[int]()
    while len(ids) < length:
        attempt = draw_attempt(data["numbers"], data["operations"], 99, rng)
        assert attempt is not None
        away = abs(attempt.value - data["target"])
        text = f"{WAIT if ids else ''}{attempt.steps}~{away}{WRONG if away else RIGHT}"
        ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[:length]


def shared(bench: Bench) -> int:
    """Sampled answers behind one pass over each trace; returns the positions."""
    engine, sizes = bench.engine(), bench.sizes
    prefix = engine.prefill([(*trace.prompt, *trace.thought) for trace in bench.traces], purpose="probed")
    branches = [
        Branch(row, len(trace.prompt) + cut, trace.suffix(cut, bench.fmt))
        for row, trace in enumerate(bench.traces)
        for cut in trace.cuts
    ]
    answers = engine.answers(prefix, branches, sizes.samples, sizes.answer, ())
    assert all([*map(len, answer.ids)] == [sizes.answer] * sizes.samples for answer in answers)
    return engine.positions["probed"]


def reprefill(bench: Bench) -> int:
    """The same answers by one `generate` over all prefixes; returns the positions. It repeats every prefix
    `num_return_sequences` times before the pass over it.
    """
    sizes = bench.sizes
    prefixes = [
        [*trace.prompt, *trace.thought[:cut], *trace.suffix(cut, bench.fmt)]
        for trace in bench.traces
        for cut in trace.cuts
    ]
    width = max(map(len, prefixes))
    pad = bench.fmt.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prefix)) + prefix for prefix in prefixes])
    mask = torch.tensor([[0] * (width - len(prefix)) + [1] * len(prefix) for prefix in prefixes])
    with torch.no_grad():
        out = bench.model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_return_sequences=sizes.samples,
            max_new_tokens=sizes.answer,
            min_new_tokens=sizes.answer,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
    assert out.shape == (len(prefixes) * sizes.samples, width + sizes.answer)
    return sizes.samples * int(mask.sum()) + len(out) * (sizes.answer - 1)


def probe(bench: Bench, which: Probe) -> int:
    """One probe of all traces; returns the positions."""
    engine = bench.engine()
    which(engine, bench.fmt, bench.traces, lambda rows, texts, ids: [0.0] * len(rows))
    return engine.positions["probed"]


def one_by_one(bench: Bench) -> int:
    """`reprefill` of one trace after the other; returns the positions."""
    return sum(reprefill(replace(bench, traces=[trace])) for trace in bench.traces)


def measure_shared(bench: Bench, repetitions: int, label: str) -> dict[str, dict[str, Any]]:
    """The cases of one model for `reprefill_over_shared`."""
    warm = replace(bench, traces=[replace(bench.traces[0], cuts=bench.traces[0].cuts[:1])])
    reprefill(warm), shared(warm)
    sides = {AT_ONCE: reprefill, ONE_BY_ONE: one_by_one, "shared": shared}
    if len(bench.traces) == 1:  # the same thing
        del sides[ONE_BY_ONE]
    timed = interleaved(list(sides), lambda name, _: partial(sides[name], bench), repetitions, f"{label} answers")
    return {
        case: compare(timed[case], timed["shared"], ("reprefill", "shared"))
        | {"reprefill_positions": timed[case].result, "shared_positions": timed["shared"].result}
        for case in sides
        if case != "shared"
    }


def measure_gold(bench: Bench, repetitions: int, label: str) -> dict[str, dict[str, Any]]:
    """The cases of one model for `gold_over_sampled`, one a tolerance."""
    probes: dict[str, Probe] = {"sampled": Sampled(samples=bench.sizes.samples)}
    probes |= {f"gold {tolerance}": Gold(tolerance) for tolerance in TOLERANCES}
    benches = {"": bench, ", kept": bench.kept()}
    warm = replace(bench, traces=[replace(bench.traces[0], cuts=bench.traces[0].cuts[:1])])
    for one in probes.values():
        probe(warm, one)
    calls = {name + key: partial(probe, b, one) for name, one in probes.items() for key, b in benches.items()}
    timed = interleaved(list(calls), lambda name, _: calls[name], repetitions, f"{label} probes")

    def case(tolerance: float, key: str) -> dict[str, Any]:
        top, bottom = timed["sampled" + key], timed[f"gold {tolerance}{key}"]
        positions = {"sampled_positions": top.result, "gold_positions": bottom.result}
        return compare(top, bottom, ("sampled", "gold")) | positions

    return {
        f"tolerance {tolerance}" if tolerance else "exact": case(tolerance, "")
        | {"behind_the_pass": case(tolerance, ", kept")}
        for tolerance in TOLERANCES
    }


def measure_floor(bench: Bench, repetitions: int, label: str) -> dict[str, dict[str, Any]]:
    """The cases of one model for `tokens_over_floor`: no clock, a count."""
    sizes, ran = bench.sizes, 0

    def count(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        nonlocal ran
        mask, ids = kwargs.get("attention_mask"), kwargs["input_ids"]
        if mask is None:  # a pass over whole traces, padded on the right
            ran += int((ids != bench.fmt.tokenizer.pad_token_id).sum())
        else:  # padding sees itself alone
            ran += int(((mask[:, 0] == 0).sum(-1) > 1).sum())

    floor = sum(len(trace.prompt) + len(trace.thought) for trace in bench.traces)
    floor += sum(len(trace.suffix(cut, bench.fmt)) for trace in bench.traces for cut in trace.cuts)
    floor += len(bench.traces) * len(bench.traces[0].cuts) * sizes.samples * sizes.answer
    cases = {}
    for case, one in {"prefilled": bench, "kept": bench.kept()}.items():
        ran, hook = 0, bench.model.register_forward_pre_hook(count, with_kwargs=True)
        counted = probe(one, Sampled(samples=sizes.samples))
        hook.remove()
        assert ran == counted, f"the engine counted {counted} positions, the hook {ran}"
        cases[case] = {"ratio": ran / floor, "positions": ran, "floor": floor}
    say(f"{label} positions: done")
    return cases


Measure = Callable[[Bench, int, str], dict[str, dict[str, Any]]]
MEASURES: dict[str, tuple[Measure, float]] = {
    "reprefill_over_shared": (measure_shared, 4.0),
    "gold_over_sampled": (measure_gold, 3.0),
    "tokens_over_floor": (measure_floor, 1.1),
}
"""What measures each key, and its target: at least so much; for `tokens_over_floor` at most."""


def run(shapes: Mapping[str, Shape], sizes: Sizes, only: str | None = None, model: str | None = None) -> dict[str, Any]:
    """Every key, or the `only` one, over fresh models of these shapes and the one saved at `model` where given."""
    cases: dict[str, dict[str, Any]] = {key: {} for key in MEASURES if only in (None, key)}
    rounds: list[tuple[str, Shape, str | None]] = [(name, shape, None) for name, shape in shapes.items()]
    rounds += [("given", next(iter(shapes.values())), model)] if model else []
    for name, shape, path in rounds:
        tokenizer = build_tokenizer()
        chosen, tokenizer = load_model(path) if path else (build_model(tokenizer, *shape.model), tokenizer)
        parameters = sum(p.numel() for p in chosen.parameters())
        say(f"{name}: {parameters / 1e6:.1f} M parameters, {shape.traces} traces")
        torch.manual_seed(0)
        bench = make_bench(chosen, tokenizer, shape.traces, sizes)
        facts = {"parameters": parameters, "traces": shape.traces, **vars(sizes)}
        for key, found in cases.items():
            measured = MEASURES[key][0](bench, shape.repetitions, name)
            found |= {f"{name}, {case}": one | facts for case, one in measured.items()}
    sides = {key: "at_most" if key == "tokens_over_floor" else "at_least" for key in cases}
    return {key: summary(found, **{sides[key]: MEASURES[key][1]}) for key, found in cases.items()}


def table(results: Mapping[str, Any]) -> str:
    """One line a case."""
    lines = []
    for key, (top, bottom) in {
        "reprefill_over_shared": ("reprefill", "shared"),
        "gold_over_sampled": ("sampled", "gold"),
    }.items():
        if key not in results:
            continue
        ratio, target = results[key]["ratio"], results[key]["target_at_least"]
        lines.append(f"{key}: {ratio:.2f} in the worst case (target at least {target:g})")
        lines.append(f"{'':<34}{'ratio':>7}{'by CPU':>8}{top:>13}{bottom:>13}{'positions':>20}")
        for name, case in results[key]["cases"].items():
            lines.append(f"  {name:<32}{_line(case, top, bottom)}")
            if "behind_the_pass" in case:
                lines.append(f"  {'  behind the pass':<32}{_line(case['behind_the_pass'], top, bottom)}")
    if floor := results.get("tokens_over_floor"):
        lines.append(f"tokens_over_floor: {floor['ratio']:.3f} in the worst case (target at most 1.1)")
        for name, case in floor["cases"].items():
            lines.append(f"  {name:<32}{case['ratio']:>7.3f}{case['positions']:>20,} / {case['floor']:,}")
    return "\n".join(lines)


def _line(case: Mapping[str, Any], top: str, bottom: str) -> str:
    places = f"{case[f'{top}_positions']:,} / {case[f'{bottom}_positions']:,}"
    ratios = f"{case['ratio']:>7.2f}{case['ratio_by_cpu']:>8.2f}"
    return f"{ratios}{case[f'{top}_seconds']:>11.3f} s{case[f'{bottom}_seconds']:>11.3f} s{places:>20}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser("evals.speed.probes", __doc__ or "")
    options.add_argument("--only", choices=list(MEASURES), help="one of them")
    options.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="which fresh models")
    options.add_argument("--repetitions", type=int, help="of each case, instead of its own number")
    options.add_argument("--traces", type=int, help="a model, instead of its own number")
    options.add_argument("--model", help="a saved model of the tiny vocabulary, measured beside the fresh ones")
    ns = options.parse_args(argv)
    shapes, sizes = (SMOKE_SHAPES, SMOKE_SIZES) if ns.smoke else ({k: SHAPES[k] for k in ns.shapes}, Sizes())
    changes = {key: getattr(ns, key) for key in ("repetitions", "traces") if getattr(ns, key)}
    shapes = {name: replace(shape, **changes) for name, shape in shapes.items()}
    show(run(shapes, sizes, ns.only, ns.model), ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
