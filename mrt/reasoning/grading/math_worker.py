"""Mathematical equality by math-verify, in processes that can be killed.

What equal means stands in `math_equality.py`. Run as a script this file is a *keeper*: it loads sympy once, then forks
one *grader* at a time and the next when that one dies, so a hanging expression costs its time limit and a few
milliseconds, not a fresh start. They read questions and write replies as JSON lines. The parent's end is `MathWorker`
in `math_process.py`. Nothing of the package is imported here, which keeps torch out of these processes.

A question is {"id", "gold", "answer": LaTeX, "same": spelled alike, "percent": who carries the sign, "written": whether
a gold that cannot be parsed is compared as it is written}, a reply {"id", "verdict", "detail"}. The kernel's timer ends
a grader at the time limit, whatever it computes and without its help.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import mmap
import os
import resource
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ITEMS_PER_GRADER = 2000  # then a fresh fork, so that caches cannot grow for ever
MAX_RESULT_DIGITS = 20_000  # numbers beyond this are compared as they are written, never computed
FINISHED, RENEW, MEMORY = 0, 3, 4  # exit codes of a grader

# One of each kind, so that a fresh grader starts with sympy's and the parser's caches full: the first meeting of a kind
# costs ten times the second.
_WARM_UP = [
    (r"\frac{1}{2}", "0.5"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x^{2}+2x+1", "(x+1)^{2}"),
    (r"\{1,2\}", "2,1"),
    ("[1,2)", "(1,2,3)"),
    ("y=2x+1", "y=2x+3"),
    (r"x=\pi", r"e^{x} \sin x"),
    (r"50\%", "x>2"),
    ("5", r"\sum_{k=1}^{7} k"),
    ("5", r"is \frac{1}{2} n"),
    ("n!", r"\binom{n}{12}"),
]

Reply = dict[str, Any]


def _sibling(name: str) -> ModuleType:
    """A file beside this one, as a module: by its place, since nothing of the package is imported here."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_equality = _sibling("math_equality")
parse, digits, equal = _equality.parse, _equality.digits, _equality.equal


def grade(question: dict[str, Any]) -> Reply:
    """{"verdict", "detail"} of one question; never raises but for want of memory."""
    from sympy import nan, zoo

    gold = parse(question["gold"])
    if gold is None and question.get("written"):
        same = question.get("same") or "".join(question["gold"].split()) == "".join(question["answer"].split())
        return {"verdict": "correct" if same else "wrong", "detail": "compared as it is written"}
    if gold is None or gold in (nan, zoo):
        return {"verdict": "error", "detail": f"the gold answer {question['gold']!r} cannot be parsed"}
    if question.get("same"):
        return {"verdict": "correct", "detail": ""}
    answer = parse(question["answer"])
    if answer is None or answer in (nan, zoo):
        return {"verdict": "unparsed", "detail": "math-verify cannot parse it"}
    signs = question.get("percent", "")
    if type(gold) is type(answer) and gold == answer and signs in ("", "both"):
        return {"verdict": "correct", "detail": ""}
    for verdict, whose, expr in (("error", "gold", gold), ("unparsed", "given", answer)):
        if digits(expr) > MAX_RESULT_DIGITS:
            return {
                "verdict": verdict,
                "detail": f"the {whose} answer has numbers of more than {MAX_RESULT_DIGITS} digits",
            }
    try:
        verdict = "correct" if equal(gold, answer, signs) else "wrong"
    except MemoryError:
        raise
    except Exception as error:  # sympy raises what it likes; the caller leaves the item out and counts it
        return {"verdict": "error", "detail": f"{type(error).__name__} while comparing"}
    return {"verdict": verdict, "detail": ""}


def _peak_mb() -> float:
    """The most address space that this process ever had; 0 where the system does not tell."""
    if not os.path.exists("/proc/self/status"):
        return 0.0
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmPeak:")), 0.0)


def serve(out: int, busy: mmap.mmap, seconds: float, memory_mb: int) -> int:
    """A grader's life: one question a line until the pipe closes; `busy` holds the id of the one in hand. Exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a parent that ignores or blocks the timer's signal hands that on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    buffer = b""
    for _ in range(ITEMS_PER_GRADER):
        while b"\n" not in buffer:
            chunk = os.read(0, 65536)
            if not chunk:
                return FINISHED
            buffer += chunk
        line, buffer = buffer.split(b"\n", 1)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        question = json.loads(line)
        busy[:8] = question["id"].to_bytes(8, "little")
        try:
            reply = grade(question)
        except MemoryError:
            return MEMORY
        # math-verify takes a failed allocation for "not equal", so a "wrong" at the memory limit means nothing.
        if reply["verdict"] != "correct" and _peak_mb() > 0.9 * memory_mb:
            return MEMORY
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(out, {"id": question["id"], **reply})
        busy[:8] = bytes(8)
    return RENEW


def send(out: int, reply: Reply) -> None:
    """Writes one reply line to the parent."""
    line = b"\n" + json.dumps(reply).encode() + b"\n"  # the first newline ends what a killed grader had begun
    while line:
        line = line[os.write(out, line) :]


def main(seconds: float, memory_mb: int) -> None:
    """The keeper: loads, says that it is ready, and keeps one grader alive until the parent closes the pipe."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no reply
    try:
        for gold, answer in _WARM_UP:
            grade({"gold": gold, "answer": answer})
    except ImportError as error:
        send(out, {"verdict": "error", "detail": str(error)})
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(5000)
    sys.set_int_max_str_digits(0)  # MAX_RESULT_DIGITS is the bound here
    gc.collect()
    gc.freeze()  # else a grader's first collection copies every page that it shares with the keeper
    send(out, {"verdict": "ready"})
    busy = mmap.mmap(-1, 8)  # shared with the graders
    while True:
        pid = os.fork()
        if pid == 0:
            os._exit(serve(out, busy, seconds, memory_mb))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == FINISHED:
            return
        asked, busy[:8] = int.from_bytes(busy[:8], "little"), bytes(8)
        if code == -signal.SIGALRM:
            send(out, {"id": asked, "verdict": "timeout", "detail": f"stopped after {seconds:g} s"})
        elif code != RENEW:
            cause = f"the memory limit of {memory_mb} MB" if code == MEMORY else f"exit code {code}"
            send(out, {"id": asked, "verdict": "error", "detail": f"the grader died: {cause}"})


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        main(float(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # at once: taking sympy down in good order takes a second
