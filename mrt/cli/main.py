"""The `mrt` command: parses, hands over to `mrt.cli.commands`, and turns every outcome into an exit code.

Exit codes: 0 done, 1 the work itself failed or doctor found a problem, 2 a mistake that the user can mend, 130
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
from importlib import import_module, metadata
from types import FrameType
from typing import Any, NoReturn

from mrt.errors import ConfigError, MRTError, nearest
from mrt.runs.fields import redact

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
    parser.add_argument("--fresh", action="store_true", help="move the run in output_dir aside and start over")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="so many runs, and what they say together")
    _allow_code(parser)


def _allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-code", action="store_true", help="run code from outside mrt and classic_metarl")


def _eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model directory, a hub name, or a suite (control/bandits)")
    parser.add_argument(
        "--policy", metavar="[NAME=]RUN", action="append", default=[], help="a policy that a control suite measures"
    )
    parser.add_argument("--sampled", action="store_true", help="policies draw their actions instead of taking the mode")
    parser.add_argument(
        "--problems", metavar="NAME", help="the problem set; key=value sets its dials (default: as trained on)"
    )
    parser.add_argument("--n", type=_positive, default=4, help="samples a problem (default 4)")
    parser.add_argument("--budgets", metavar="0,10,20", help="thinking tokens after which an answer is forced")
    parser.add_argument("--out", metavar="DIR", help="where samples and results go; what is there is kept")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N problems, or tasks")
    parser.add_argument("--probe", choices=("auto", *PROBES), default="auto", help="how J after an episode is measured")
    parser.add_argument("--split", default="test", help="which split of the problem set (default test)")
    parser.add_argument("--name", help="the name in tables and reports (default: that of DIR)")
    _allow_code(parser)
    _temperature(parser)
    _seed(parser)
    from mrt.reasoning.evaluation.command import add_arguments

    add_arguments(parser, _positive)


def _temperature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=_temperature_value, default=1.0, metavar="T", help="above 0 (default 1)")


def _seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_not_negative, default=0)


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evals", nargs="*", metavar="DIR", help="evaluation directories")
    parser.add_argument("--out", metavar="FILE", default="report.html")
    parser.add_argument("--runs", nargs="+", default=[], metavar="RUN_DIR", help="training runs whose curves are shown")
    parser.add_argument("--baseline", metavar="NAME", help="what the others are set against (default: the first)")
    parser.add_argument("--title", default="Evaluation report")


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation directory")
    parser.add_argument("b", metavar="B", help="the one that it is set against")


def _probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("traces", metavar="TRACES.jsonl")
    parser.add_argument("--model", metavar="M", required=True, help="the model that is made to answer")
    parser.add_argument("--probe", choices=PROBES, default="sampled")
    parser.add_argument("--samples", type=_positive, default=4, help="forced answers a boundary (sampled, shrunk)")
    parser.add_argument("--segmenter", choices=("cues", "paragraphs", "blocks"), default="cues")
    parser.add_argument("--out", metavar="FILE", help="where the curves go, a JSON object a line")
    _seed(parser)


def _generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="M", required=True)
    parser.add_argument("--budget", type=_not_negative, metavar="N", help="thinking tokens at most")
    parser.add_argument("--prompt", metavar="TEXT", help="default: standard input")
    parser.add_argument("--flat", type=float, metavar="EPS", help="stop once J rises by no more than this")
    _temperature(parser)
    _seed(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a recipe to check as well: memory, time, cost")
    parser.add_argument("--price", type=float, metavar="P", help="of this machine an hour, for the cost of the run")
    _allow_code(parser)


def _quickstart(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", default="runs/quickstart")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of everything: checks the wiring, learns nothing"
    )
    _seed(parser)


def _positive(text: str) -> int:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("should be at least 1")
    return value


def _temperature_value(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def _not_negative(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
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
    "quickstart": Command("the main job, from nothing to report.html", _quickstart, "quickstart", goes_on=True),
    "train": Command("train what a recipe says", _train, "train", overrides=True, goes_on=True),
    "eval": Command("measure a model on held-out problems", _eval, "evaluate", overrides=True, goes_on=True),
    "compare": Command("one evaluation against another, with intervals", _compare, "compare"),
    "report": Command("evaluations and runs as one HTML file", _report, "report"),
    "probe": Command("stop values and regret of traces from anywhere", _probe, "probe"),
    "generate": Command("an answer within a budget of thinking tokens", _generate, "generate"),
    "doctor": Command("check the machine, the installation, a recipe", _doctor, "doctor", overrides=True),
}


def _parser() -> _Parser:
    parser = _Parser(prog="mrt", description="Meta-reinforcement finetuning of language models.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        tail = " [key=value ...]" if command.overrides else ""
        sub = subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
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
            print(metadata.version("mrt"))
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
        print("\nmrt: interrupted" + ("; the same command goes on from there" if goes_on else ""), file=sys.stderr)
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
