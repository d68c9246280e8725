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

from mrt.cli.allocator import keep_freed_memory
from mrt.cli.arguments import (
    compare_arguments,
    doctor_arguments,
    eval_arguments,
    generate_arguments,
    grade_arguments,
    merge_arguments,
    probe_arguments,
    quickstart_arguments,
    report_arguments,
    train_arguments,
)
from mrt.errors import ConfigError, MRTError, nearest
from mrt.runs.fields import redact
from mrt.version import version

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
        "warm start, GRPO and MRT, evaluation and report, from nothing",
        quickstart_arguments,
        "quickstart",
        goes_on=True,
    ),
    "train": Command("train what a recipe describes", train_arguments, "train", overrides=True, goes_on=True),
    "eval": Command("measure a model on held-out problems", eval_arguments, "evaluate", overrides=True, goes_on=True),
    "compare": Command("compare two evaluations, with intervals", compare_arguments, "compare"),
    "report": Command("write evaluations and runs as one HTML file", report_arguments, "report"),
    "probe": Command("measure stop values and regret of traces from anywhere", probe_arguments, "probe"),
    "grade": Command("verdicts for a file of answers, and its unusable golds", grade_arguments, "grade"),
    "merge": Command("write an adapter and its base model as one model", merge_arguments, "merge"),
    "generate": Command("generate an answer within a budget of thinking tokens", generate_arguments, "generate"),
    "doctor": Command("check the machine, the installation and a recipe", doctor_arguments, "doctor", overrides=True),
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
    """Runs one command and returns its exit code; without `argv` as the process's own command."""
    own_process = argv is None
    argv = list(sys.argv[1:] if argv is None else argv)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    as_json = "--json" in argv
    try:
        ns = parse(argv)
        if ns.command is None:
            print(version())
            return OK
        if own_process and COMMANDS[ns.command].goes_on:
            keep_freed_memory()
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
