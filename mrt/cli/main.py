"""The `mrt` command: parses, calls `mrt.cli.commands`, and turns every outcome into an exit code.

Exit codes: 0 done, 1 the work itself failed or doctor found a problem, 2 a mistake that the user can fix, 130
interrupted. With --json, stdout holds one JSON object and nothing else; what is meant for a person goes to stderr.
"""

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from mrt.errors import ConfigError, MRTError, nearest
from mrt.runs.fields import redact
from mrt.version import version

PROBES = ("gold", "sampled", "greedy", "shrunk")
OK, USER_MISTAKE, INTERRUPTED = 0, 2, 130
# Unless the user has set them: no telemetry, and none of the chatter that would bury a command's own lines.
ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}


class _Interrupted(KeyboardInterrupt):
    """SIGINT, as a class of its own.

    CPython remembers a plain KeyboardInterrupt that came through exec (as during imports) even when it is caught, and
    then ends the process by the signal in place of the exit code.
    """


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or the name of a packaged recipe (countdown/mrt)"
    )
    parser.add_argument("--fresh", action="store_true", help="move an earlier run in output_dir aside and start over")
    parser.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="train N seeds and report their interquartile mean with its interval",
    )
    _allow_code(parser)


def _allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-code", action="store_true", help="run code from outside mrt and classic_metarl")


def _eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model directory, a hub name, or a suite (control/bandits)")
    parser.add_argument(
        "--policy",
        metavar="[NAME=]RUN",
        action="append",
        default=[],
        help="a policy for a control suite to measure; may be repeated",
    )
    parser.add_argument(
        "--sampled", action="store_true", help="policies sample their actions instead of taking the most likely one"
    )
    parser.add_argument(
        "--problems", metavar="NAME", help="the problem set; key=value sets its options (default: as trained on)"
    )
    parser.add_argument("--n", type=_positive, default=4, help="samples per problem (default: 4)")
    parser.add_argument("--budgets", metavar="0,10,20", help="thinking tokens after which an answer is forced")
    parser.add_argument("--out", metavar="DIR", help="folder of samples and results; finished samples are kept")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N problems or tasks")
    parser.add_argument(
        "--probe",
        choices=("auto", *PROBES),
        default="auto",
        help="how J after each episode is measured (default: auto)",
    )
    parser.add_argument("--split", default="test", help="split of the problem set (default: test)")
    parser.add_argument("--name", help="name in tables and reports (default: the name of DIR)")
    _allow_code(parser)
    _temperature(parser)
    _seed(parser)
    from mrt.reasoning.evaluation.command import add_arguments

    add_arguments(parser, _positive)


def _temperature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--temperature",
        type=_temperature_value,
        default=1.0,
        metavar="T",
        help="sampling temperature, above 0 (default: 1)",
    )


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_not_negative, default=0, metavar="N", help="random seed (default: 0)")


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evals", nargs="*", metavar="DIR", help="evaluation directories")
    parser.add_argument("--out", metavar="FILE", default="report.html", help="the page (default: report.html)")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN_DIR", help="training runs whose curves to show")
    parser.add_argument(
        "--baseline", metavar="NAME", help="the evaluation that the others are compared with (default: the first)"
    )
    parser.add_argument("--title", default="Evaluation report", help="title of the page")


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation directory")
    parser.add_argument("b", metavar="B", help="the evaluation to compare it with")


def _probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("traces", metavar="TRACES.jsonl", help="one trace per line: prompt and thought")
    parser.add_argument("--model", metavar="M", required=True, help="the model that is made to answer at each boundary")
    parser.add_argument("--probe", choices=PROBES, default="sampled", help="how J is measured (default: sampled)")
    parser.add_argument(
        "--samples", type=_positive, default=4, help="forced answers per boundary (sampled, shrunk; default: 4)"
    )
    parser.add_argument("--segmenter", choices=("cues", "paragraphs", "blocks"), default="cues")
    parser.add_argument("--out", metavar="FILE", help="file for the curves, one JSON object per line")
    _seed(parser)


def _grade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a JSONL, CSV or parquet file of answers and gold answers")
    parser.add_argument(
        "--columns",
        metavar="gold=A,answer=B",
        default="",
        help="without `answer` the golds are graded against themselves",
    )
    parser.add_argument("--answer-after", metavar="MARK", help="the gold is what follows this mark (#### for GSM8K)")
    parser.add_argument("--boxes", choices=("last", "all"), default="last", help="which boxes count (docs/grading.md)")
    parser.add_argument("--workers", type=_positive, default=1, help="comparisons at once (default 1)")
    parser.add_argument("--out", metavar="FILE", help="a verdict with its reason for each answer, a JSON object a line")


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="M", required=True, help="a model directory or a hub name")
    parser.add_argument("--budget", type=_not_negative, metavar="N", help="at most N thinking tokens")
    parser.add_argument("--prompt", metavar="TEXT", help="the prompt (default: standard input)")
    parser.add_argument("--flat", type=float, metavar="EPS", help="stop thinking once J rises by no more than EPS")
    _temperature(parser)
    _seed(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a recipe to check as well: memory, time and cost")
    parser.add_argument(
        "--price", type=float, metavar="P", help="price of this machine per hour, for the cost of the run"
    )
    _allow_code(parser)


def _quickstart(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="runs/quickstart", help="folder (default: runs/quickstart)")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of each part: checks the wiring, learns nothing"
    )
    _seed(parser)


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _temperature_value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' must be a number above 0")
    return value


def _not_negative(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number, 0 or more")
    return int(text)


@dataclass(frozen=True)
class Command:
    """One subcommand: its line in `mrt --help`, its arguments, its function in `mrt.cli.commands`."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    function: str
    overrides: bool = False
    goes_on: bool = False


COMMANDS = {
    "quickstart": Command(
        "warm start, GRPO and MRT, evaluation and report, from nothing", _quickstart, "quickstart", goes_on=True
    ),
    "train": Command("train what a recipe describes", _train, "train", overrides=True, goes_on=True),
    "eval": Command("measure a model on held-out problems", _eval, "evaluate", overrides=True, goes_on=True),
    "compare": Command("compare two evaluations, with intervals", _compare, "compare"),
    "report": Command("write evaluations and runs as one HTML file", _report, "report"),
    "probe": Command("measure stop values and regret of traces from anywhere", _probe, "probe"),
    "grade": Command("verdicts for a file of answers, and its unusable golds", _grade, "grade"),
    "generate": Command("generate an answer within a budget of thinking tokens", _generate, "generate"),
    "doctor": Command("check the machine, the installation and a recipe", _doctor, "doctor", overrides=True),
}


def _parser() -> _Parser:
    parser = _Parser(prog="mrt", description="Meta-reinforcement finetuning of language models.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        tail = " [key=value ...]" if command.overrides else ""
        sub = subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        command.add_arguments(sub)
        sub.usage = sub.format_usage().removeprefix("usage: ").rstrip() + tail
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line as a namespace; raises ConfigError that names the nearest command or option for a misspelt one.

    Overrides (`key=value`) may stand anywhere after the command's own arguments.
    """
    parser = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise ConfigError(f"unknown command '{argv[0]}'; {nearest(argv[0], set(COMMANDS))}")
    ns, rest = parser.parse_known_args(argv)
    if ns.command is None:
        if not ns.version:
            raise ConfigError(f"no command given; valid are: {', '.join(COMMANDS)} (see `mrt --help`)")
        return ns
    takes_overrides = COMMANDS[ns.command].overrides
    ns.overrides = [item for item in rest if takes_overrides and "=" in item and not item.startswith("-")]
    for item in rest:
        if item not in ns.overrides and item != "--":
            from mrt.runs.rundir import redact_command

            options = {name.replace("_", "-") for name in vars(ns)} - {"command", "overrides", "version"}
            asked = item.partition("=")[0].strip("-")
            hint = nearest(asked, options) if item.startswith("-") else "overrides read key=value"
            raise ConfigError(f"mrt {ns.command} does not take '{redact_command([item])[0]}'; {hint}")
    ns.command_line = ["mrt", *argv]
    return ns


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    as_json = "--json" in argv
    try:
        ns = parse(argv)
        if ns.command is None:
            print(version())
            return OK
        with _interruptible(), redirect_stdout(sys.stderr):  # trainers print; stdout is for the answer
            outcome = getattr(import_module("mrt.cli.commands"), COMMANDS[ns.command].function)(ns)
    except MRTError as error:
        text = redact(str(error))
        print(f"mrt: {text}", file=sys.stderr)
        if as_json:
            _print_json({"error": text, "kind": type(error).__name__, "exit_code": USER_MISTAKE})
        return USER_MISTAKE
    except KeyboardInterrupt:
        goes_on = any(COMMANDS[item].goes_on for item in argv[:1] if item in COMMANDS)
        print("\nmrt: interrupted" + ("; the same command resumes from there" if goes_on else ""), file=sys.stderr)
        return INTERRUPTED
    if outcome.text:
        print(outcome.text, file=sys.stderr if as_json else sys.stdout, flush=True)
    if as_json and outcome.payload:
        _print_json(outcome.payload)
    return int(outcome.code)


@contextmanager
def _interruptible() -> Iterator[None]:
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Interrupted


def _print_json(content: Any) -> None:
    print(json.dumps(_plain(content), default=str, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """What JSON knows: NaN and infinity become null, keys become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
