"""A pretrained model (SmolLM2-135M-Instruct) on word problems: base, SFT, and GRPO and MRT from it at equal cost.

    python -m mrt.reasoning.problems.word_problem_files --out runs/word_problems/data --source mawps FILE FILE \\
        --source svamp FILE                                         train and test files (once)
    python -m evals.reasoning.word_problems_study --gsm8k FILE      runs what is not stored yet, then prints the table
    python -m evals.reasoning.word_problems_study --cached          prints what is stored

200 held-out problems of MAWPS, 200 of SVAMP, and the first 200 of GSM8K's test set, which no arm trains on; the model
samples at temperature 0.7, in training at 1, and must answer after 64 tokens of thought. Cost is positions through the
model without padding: sampled 1, probed 1, updated 3 each. Interrupted anywhere, the same command goes on from there.
Results stand under evals/results/word_problems/, one file a seed and arm. All seeds start from one SFT; settings were
chosen on seeds 0 to 2, which are no evidence. A run without --gsm8k leaves what is stored with it as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.reasoning.study_parts import (
    Arm,
    check_same,
    cost_so_far,
    digest_of,
    is_finished,
    measured,
    read_results,
    shown,
    steps_so_far,
    trained,
)
from mrt.errors import ConfigError, MRTError
from mrt.metrics.regret import bootstrap_over_seeds, tokens_at_equal_accuracy_interval
from mrt.reasoning.problems.word_problems import numbers_of
from mrt.runs.rundir import write_json
from mrt.runs.steps import Progress, Step, StepRunner, count_lines

SCHEMA_VERSION = 1
STORE = Path(__file__).resolve().parent.parent / "results" / "word_problems"
RUNS = Path("runs/word_problems")
DATA = RUNS / "data"
SEEDS = (3, 4)
BASE, WARM_START, BASELINE, OURS = "base", "sft", "grpo", "mrt"
HELD_OUT = ("mawps", "svamp")  # what the arms are compared on; GSM8K stands beside it
GSM8K = "gsm8k"
N, BUDGETS = 2, "0,32,64"
PROBLEMS = {"mawps": 200, "svamp": 200, GSM8K: 200}  # the first of each test file
SFT_SEED = 0
COST = 9e5
DTYPE = "{dtype: bfloat16}"  # on processors with instructions for it about twice as fast as float32
ARMS = {BASE: Arm(""), WARM_START: Arm("sft"), BASELINE: Arm("grpo"), OURS: Arm("mrt")}


@dataclass(frozen=True)
class Study:
    """Where the runs lie, where results are stored, and the published test file of GSM8K (None: it is left out)."""

    runs: Path = RUNS
    store: Path = STORE
    data: Path = DATA
    gsm8k: Path | None = None
    smoke: bool = False

    def folder(self, seed: int, arm: str) -> Path:
        """Where the arm of this seed is evaluated, and trained but for the one SFT that all seeds start from."""
        return self.runs / f"seed{seed}" / arm

    def trained(self, seed: int, arm: str) -> Path:
        """Where the model is trained."""
        return self.runs / WARM_START if arm == WARM_START else self.folder(seed, arm)

    def stored(self, seed: int, arm: str) -> Path:
        """The result of one seed and arm."""
        return self.store / f"seed{seed}" / f"{arm}.json"

    def model(self, seed: int, arm: str) -> str:
        """What is evaluated."""
        return "smollm2" if arm == BASE else str(self.trained(seed, arm) / "merged")

    def label(self, seed: int, arm: str) -> str:
        """The name of the training of an arm."""
        return arm if arm == WARM_START else f"{arm}-{seed}"

    def recipe(self, seed: int, arm: str) -> tuple[str, list[str]]:
        """Recipe and overrides that train the arm."""
        overrides = [f"args.model_init_kwargs={DTYPE}", f"problems.path={self.data / 'train.jsonl'}"]
        if arm != WARM_START:
            overrides += [f"model={self.model(seed, WARM_START)}", f"args.max_cost={COST}"]
        if self.smoke:
            overrides += ["args.max_steps=1", "args.per_device_train_batch_size=8"]
        overrides += [*ARMS[arm].overrides, f"output_dir={self.trained(seed, arm)}"]
        overrides += [f"seed={SFT_SEED if arm == WARM_START else seed}"]
        return f"smollm2/word-problems/{ARMS[arm].recipe}", overrides

    def digest(self, seed: int, arm: str) -> str:
        """What decides the result; paths aside."""
        evaluation = {"n": N, "budgets": BUDGETS, "problems": PROBLEMS, "smoke": self.smoke, "seed": seed}
        if arm == BASE:
            return digest_of(None, (), evaluation, SCHEMA_VERSION)
        recipe, overrides = self.recipe(seed, arm)
        return digest_of(recipe, [*overrides, "problems.path=''"], evaluation, SCHEMA_VERSION)

    def sets(self) -> list[str]:
        """The test sets that are measured."""
        return [*HELD_OUT, *([GSM8K] if self.gsm8k else [])]

    def steps(self, seeds: Sequence[int], arms: Sequence[str]) -> list[Step]:
        """Everything that is missing: training, merging, evaluations and storing of each arm and seed."""
        found = [step for seed in seeds for arm in arms for step in self._arm_steps(seed, arm)]
        if any(f"merge-{WARM_START}" in step.needs for step in found):
            found = [*self._training(SFT_SEED, WARM_START), *found]
        return list({step.name: step for step in found}.values())  # the SFT is that of all seeds

    def _arm_steps(self, seed: int, arm: str) -> list[Step]:
        merged = Path(self.model(seed, arm)) / "config.json"
        if self.is_stored(seed, arm) and (arm != WARM_START or merged.is_file()):
            return []
        label = f"{arm}-{seed}"
        found = [] if arm == BASE else self._training(seed, arm)
        found += [self._evaluation(seed, arm, name) for name in self.sets()]
        this = [sys.executable, "-m", "evals.reasoning.word_problems_study", f"--store-one={seed}:{arm}"]
        options = ["--runs", str(self.runs), "--store", str(self.store), "--data", str(self.data)]
        options += [*(["--gsm8k", str(self.gsm8k)] if self.gsm8k else []), *(["--smoke"] if self.smoke else [])]
        needs = tuple(f"{name}-{label}" for name in self.sets())
        return [*found, Step(f"store-{label}", [*this, *options], lambda: self.is_stored(seed, arm), needs=needs)]

    def _training(self, seed: int, arm: str) -> list[Step]:
        label = self.label(seed, arm)
        recipe, overrides = self.recipe(seed, arm)
        folder, mrt = self.trained(seed, arm), [sys.executable, "-m", "mrt"]
        start = Path(self.model(seed, WARM_START)) / "config.json"
        progress = (lambda: steps_so_far(folder)) if arm == WARM_START else (lambda: cost_so_far(folder, COST))
        return [
            Step(
                label,
                [*mrt, "train", recipe, *overrides, "--json"],
                # Not the flag alone: a run of other settings may be finished there, and is refused.
                lambda: is_finished(folder, recipe, overrides),
                progress,
                () if arm == WARM_START or start.is_file() else (f"merge-{WARM_START}",),
            ),
            Step(
                f"merge-{label}",
                [*mrt, "merge", str(folder), "--out", self.model(seed, arm), "--json"],
                lambda: (Path(self.model(seed, arm)) / "config.json").is_file(),
                needs=(label,),
            ),
        ]

    def _evaluation(self, seed: int, arm: str, name: str) -> Step:
        out = self.folder(seed, arm) / f"eval_{name}"
        command = [sys.executable, "-m", "mrt", "eval", *self.suite(name), "--model", self.model(seed, arm)]
        command += [f"--n={N}", f"--budgets={BUDGETS}", f"settings.engine_options={DTYPE}"]
        command += [f"--seed={seed}", f"--name={arm}", "--out", str(out), "--json"]
        command += ["--train-file", str(self.data / "train.jsonl"), f"--limit={self.limit(name)}"]
        return Step(
            f"{name}-{arm}-{seed}",
            command,
            lambda: (out / "results.json").is_file(),
            lambda: Progress(count_lines(out / "samples.jsonl")),
            () if arm == BASE else (f"merge-{self.label(seed, arm)}",),
        )

    def limit(self, name: str) -> int:
        """Problems of a test set that are measured."""
        return 4 if self.smoke else PROBLEMS[name]

    def suite(self, name: str) -> list[str]:
        """The suite that measures on a test set, with its problems."""
        if name != GSM8K:
            return [f"reasoning/word_problems_{name}", f"path={self.data / f'test_{name}.jsonl'}"]
        alike = ["settings.segmenter=paragraphs", "settings.segmenter_options={min_tokens: 4, max_tokens: null}"]
        alike += ["settings.answer_tokens=16", "settings.own_answer_tokens=24"]
        file = ["--file", str(self.gsm8k), "--any-file"]
        return [
            f"reasoning/{GSM8K}",
            *file,
            "prompt='{problem}'",
            "settings.top_p=1.0",
            "--temperature=0.7",
            "--probe=greedy",
            *alike,
        ]

    def is_stored(self, seed: int, arm: str) -> bool:
        """Whether the result is there and was made with these settings."""
        path = self.stored(seed, arm)
        if not path.is_file():
            return False
        result = json.loads(path.read_text())
        return result["digest"] == self.digest(seed, arm) and set(self.sets()) <= set(result["sets"])

    def keep(self, seed: int, arm: str) -> None:
        """Writes the result of a finished run and its evaluations to the store."""
        folder = self.folder(seed, arm)
        result = {
            "schema_version": SCHEMA_VERSION,
            "digest": self.digest(seed, arm),
            "arm": arm,
            "seed": seed,
            **({} if arm == BASE else trained(self.trained(seed, arm), "smollm2" if arm == WARM_START else "")),
            "data": json.loads((self.data / "manifest.json").read_text()),
            "sets": {name: self._measured(folder / f"eval_{name}", name) for name in self.sets()},
        }
        write_json(self.stored(seed, arm), result)

    def _measured(self, folder: Path, name: str) -> dict[str, Any]:
        overlap = json.loads((folder / "contamination.json").read_text())
        return {
            **measured(folder, N),
            "without_learning": self._without_learning(name),
            "share_a_13_gram_with_train": overlap["contaminated"],
        }

    def _without_learning(self, name: str) -> dict[str, float]:
        limit = self.limit(name)
        if name == GSM8K:
            rows = _lines(self.gsm8k or Path())[:limit]
            problems = [(row["question"], row["answer"].rpartition("####")[2].strip().replace(",", "")) for row in rows]
        else:
            problems = [(row["question"], row["answer"]) for row in _lines(self.data / f"test_{name}.jsonl")[:limit]]
        return without_learning(problems, [row["answer"] for row in _lines(self.data / "train.jsonl")])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


RULES: Mapping[str, Callable[[float, float], float]] = {
    "first + second number": lambda a, b: a + b,
    "larger - smaller of the first two": lambda a, b: abs(a - b),
    "first * second number": lambda a, b: a * b,
    "larger / smaller of the first two": lambda a, b: max(a, b) / min(a, b) if min(a, b) else 0.0,
}


def without_learning(problems: Sequence[tuple[str, str]], train_answers: Sequence[str]) -> dict[str, float]:
    """Accuracy of rules that read no word: {rule: share of problems right}.

    Args:
        problems: (text, gold answer), a number in decimals.
        train_answers: the most frequent of them is the answer of the last rule.
    """
    right: Counter[str] = Counter()
    usual = Counter(train_answers).most_common(1)[0][0]
    for text, gold in problems:
        numbers = [float(value) for value in numbers_of(text)]
        for name, rule in RULES.items():
            right[name] += len(numbers) > 1 and abs(rule(*numbers[:2]) - float(gold)) < 1e-6
        right["the largest number"] += bool(numbers) and max(numbers) == float(gold)
        right["the most frequent answer of the train problems"] += gold == usual
    return {name: round(count / len(problems), 4) for name, count in right.items()}


def read_stored(study: Study, seeds: Sequence[int], arms: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The stored results of the arms that have every one of these seeds, checked to be about the same problems."""
    found = read_results({arm: [study.stored(seed, arm) for seed in seeds] for arm in arms})
    for name in (*HELD_OUT, GSM8K):
        sets = [one["sets"][name] for results in found.values() for one in results if name in one["sets"]]
        check_same([one["keys_sha256"] for one in sets], study.store)
    return found


def summarise(study: Study, found: Mapping[str, list[dict[str, Any]]], seeds: Sequence[int]) -> dict[str, Any]:
    """Every figure of the study, each with mean, low and high (95 %, seeds and problems resampled)."""
    if not found:
        raise ConfigError(f"nothing is stored under {study.store} for seeds {list(seeds)}: run the study")
    first = next(iter(found.values()))[0]["sets"]
    names = [name for name in (*HELD_OUT, GSM8K) if name in first]
    return {
        "seeds": list(seeds),
        "samples": N,
        "budget": int(BUDGETS.rpartition(",")[2]),
        "without_learning": {name: first[name]["without_learning"] for name in names},
        "problems": {name: len(first[name]["correct"]) for name in names},
        "measured_on": {
            name: [one["seed"] for one in next(iter(found.values())) if name in one["sets"]] for name in names
        },
        "arms": {
            arm: {
                "sets": {name: _figures(found, arm, [name]) for name in names},
                "held_out": _figures(found, arm, list(HELD_OUT)),
                "cost": [one["cost"].get("total") for one in results if "cost" in one],
                "updates": [one["updates"] for one in results if "updates" in one],
                "minutes": [one["minutes"] for one in results if "minutes" in one],
            }
            for arm, results in found.items()
        },
    }


def _figures(found: Mapping[str, list[dict[str, Any]]], arm: str, names: Sequence[str]) -> dict[str, Any]:
    """Of one arm on the problems of these sets together."""

    def values(which: str, key: str) -> np.ndarray:
        return np.array(
            [
                [row for name in names for row in one["sets"][name][key]]
                for one in found[which]
                if set(names) <= set(one["sets"])  # GSM8K may be measured on some of the seeds only
            ],
            dtype=float,
        )

    def over(arrays: Sequence[np.ndarray], statistic: Callable[..., Any]) -> dict[str, float]:
        return vars(bootstrap_over_seeds(arrays, statistic)).copy()

    curves = {which: values(which, "correct") / N for which in found}
    regrets = {which: values(which, "regret") for which in found}
    figures: dict[str, Any] = {
        "accuracy": over([curves[arm][:, :, -1]], lambda a: a),
        "accuracy_by_seed": [round(float(curve[:, -1].mean()), 4) for curve in curves[arm]],
        "accuracy_at_budget": [round(float(x), 4) for x in curves[arm].mean((0, 1))],
        "normalised_regret": over([regrets[arm]], lambda a: a),
        "tokens": over([np.minimum(values(arm, "tokens"), int(BUDGETS.rpartition(",")[2]))], lambda a: a),
    }
    for other in (WARM_START, BASELINE):
        if other in found and arm not in (BASE, WARM_START, other):
            figures[f"accuracy_minus_{other}"] = over([curves[arm][:, :, -1], curves[other][:, :, -1]], np.subtract)
            figures[f"regret_minus_{other}"] = over([regrets[arm], regrets[other]], np.subtract)
    if arm == OURS and BASELINE in found:
        budgets = [int(budget) for budget in BUDGETS.split(",")]
        interval = tokens_at_equal_accuracy_interval(curves[BASELINE], curves[arm], budgets)
        figures["tokens_at_equal_accuracy"] = vars(interval).copy()
    return figures


def table(summary: Mapping[str, Any]) -> str:
    """The study as text: one line an arm, and one a set with what needs no learning."""
    names = list(summary["problems"])
    some = {name: seeds for name, seeds in summary["measured_on"].items() if seeds != summary["seeds"]}
    sizes = ", ".join(
        f"{count} of {name}" + (f" (seeds {some[name]})" if name in some else "")
        for name, count in summary["problems"].items()
    )
    lines = [
        f"Word problems, SmolLM2-135M-Instruct, seeds {summary['seeds']}, {sizes}; {summary['samples']} samples, "
        f"at most {summary['budget']} tokens of thought; GRPO and MRT at equal cost; both: {' and '.join(HELD_OUT)}",
        f"{'arm':<7}" + "".join(f"{name:<22}" for name in [*names, "both"]) + f"{'minus SFT':<23}{'minus GRPO':<24}"
        f"{'regret (both)':<22}{'minus GRPO':<24}{'tokens at equal acc.':<22}{'M positions':<13}{'updates':<9}minutes",
    ]
    for arm, line in summary["arms"].items():
        both, cost = line["held_out"], [value / 1e6 for value in line["cost"] if value]
        lines.append(
            f"{arm:<7}"
            + "".join(f"{shown(line['sets'][name]['accuracy']):<22}" for name in names)
            + f"{shown(both['accuracy']):<22}{shown(both.get('accuracy_minus_sft')):<23}"
            f"{shown(both.get('accuracy_minus_grpo')):<24}{shown(both['normalised_regret']):<22}"
            f"{shown(both.get('regret_minus_grpo')):<24}{shown(both.get('tokens_at_equal_accuracy'), 2):<22}"
            + "".join(
                f"{f'{np.mean(values):.{digits}f}' if values else '-':<{width}}"
                for values, digits, width in ((cost, 2, 13), (line["updates"], 0, 9), (line["minutes"], 1, 0))
            )
        )
    for name, rules in summary["without_learning"].items():
        best = max(RULES, key=lambda rule: rules[rule])
        floors = [rule for rule in rules if rule not in RULES]
        lines.append(
            f"{name} without reading: best rule '{best}' {rules[best]:.3f}; "
            + "; ".join(f"{rule} {rules[rule]:.3f}" for rule in floors)
        )
    return "\n".join(line.rstrip() for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.reasoning.word_problems_study", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=list(ARMS))
    parser.add_argument("--width", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--data", type=Path, default=DATA, help="folder that word_problem_files wrote")
    parser.add_argument("--gsm8k", type=Path, help="the published test file of GSM8K (JSONL); without it: left out")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    parser.add_argument("--smoke", action="store_true", help="one update and four problems: does it run at all")
    parser.add_argument("--store-one", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    study = Study(ns.runs, ns.store, ns.data, ns.gsm8k, ns.smoke)
    arms = [arm for arm in ARMS if arm in ns.arms]
    try:
        if not ns.cached and not (study.data / "manifest.json").is_file():
            raise ConfigError(
                f"{study.data} holds no manifest.json: write the files first (word_problem_files, see --help)"
            )
        if ns.store_one:
            seed, arm = ns.store_one.split(":")
            study.keep(int(seed), arm)
            return 0
        if not ns.cached:
            StepRunner(study.runs, study.steps(ns.seeds, arms), ns.width).run()
        summary = summarise(study, read_stored(study, ns.seeds, list(ARMS)), ns.seeds)
    except (MRTError, KeyboardInterrupt) as error:
        print(f"word_problems_study: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    print(json.dumps(summary, indent=2) if ns.json else table(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
