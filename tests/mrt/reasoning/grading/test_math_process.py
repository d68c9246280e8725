"""The killable workers: whatever dies is replaced, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mrt.reasoning.grading.compare import Question
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.math_process import MathWorker
from mrt.reasoning.grading.verdict import Grade, Verdict
from tests.support import ROOT

pytestmark = pytest.mark.training

SECONDS = 0.5

HANG = r"\binom{1000000000}{500000000}"


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(seconds=SECONDS) as grader:
        grader.start()
        yield grader


def ask(grader: MathGrader) -> Verdict:
    """The verdict of the worker itself: plain numbers do not reach it."""
    return grader._ask_worker(Question("5", "2+3", False))[0]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes(worker: MathWorker) -> tuple[int, int]:
    """(keeper, grader) of a worker that has been asked something."""
    assert worker._process is not None
    keeper = worker._process.pid
    for _ in range(100):
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        if children:
            return keeper, int(children[0])
        time.sleep(0.02)
    raise AssertionError("the keeper has no grader")


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


HOG = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("worker", {path!r})
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
real = worker.grade

def grade(question):
    kept = []
    try:
        while "hog" in question["answer"]:
            kept.append(bytearray(2**22))
    except MemoryError:
        if question["answer"] == "hog":
            raise
        return {{"verdict": "wrong", "detail": ""}}  # as math-verify does
    return real(question)

worker.grade = grade
worker.main(float(sys.argv[1]), int(sys.argv[2]))
"""


def test_a_grader_that_runs_out_of_memory_is_an_error_and_the_next_item_is_fine(tmp_path: Path) -> None:
    worker = MathWorker(seconds=20.0, memory_mb=256)
    worker.script = tmp_path / "hog.py"
    worker.script.write_text(HOG.format(path=str(ROOT / "mrt" / "reasoning" / "grading" / "math_worker.py")))
    for answer in ("hog", "hog that swallows the MemoryError", "hog"):
        reply = worker.ask("5", answer, same=False)
        assert reply["verdict"] == "error"
        assert "memory limit of 256 MB" in reply["detail"]
        assert worker.ask("5", "2+3", same=False)["verdict"] == "correct"
    worker.close()


def test_killed_processes_are_replaced(grader: MathGrader) -> None:
    keeper, child = processes(grader._workers[0])
    os.kill(child, signal.SIGKILL)
    assert wait_until(lambda: not alive(child))
    assert [ask(grader) for _ in range(3)] == [Verdict.CORRECT] * 3
    os.kill(keeper, signal.SIGKILL)
    assert wait_until(lambda: not alive(keeper))
    assert [ask(grader) for _ in range(3)] == [Verdict.CORRECT] * 3
    replaced = processes(grader._workers[0])
    assert set(replaced).isdisjoint({keeper, child})


def test_a_grader_killed_at_work_is_an_error(grader: MathGrader) -> None:
    grader.start()
    _, child = processes(grader._workers[0])
    timer = threading.Timer(0.1, os.kill, (child, signal.SIGKILL))
    timer.start()
    grade = grader.grade_answer(HANG, "5")
    timer.join()
    assert grade.verdict is Verdict.ERROR
    assert "exit code -9" in grade.detail
    assert ask(grader) is Verdict.CORRECT


def test_a_worker_that_stands_still_is_killed_the_second_time(grader: MathGrader) -> None:
    grader.start()
    pids = processes(grader._workers[0])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        start = time.monotonic()
        assert ask(grader) is Verdict.TIMEOUT
        assert time.monotonic() - start < SECONDS + 1.0
    assert wait_until(lambda: not any(map(alive, pids)))
    assert ask(grader) is Verdict.CORRECT


def test_a_parent_that_ignores_the_timers_signal_changes_nothing() -> None:
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        with MathGrader(seconds=SECONDS) as grader:
            grader.start()
            assert "stopped" in grader.grade_answer(HANG, "5").detail  # by the timer, not by the parent
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        signal.signal(signal.SIGALRM, before)


def test_closing_leaves_no_process() -> None:
    grader = MathGrader(seconds=SECONDS)
    grader.start()
    pids = processes(grader._workers[0])
    grader.close()
    assert wait_until(lambda: not any(map(alive, pids)))
    grader.close()


@pytest.mark.parametrize("busy", [False, True])
def test_a_parent_killed_with_9_leaves_no_orphan(busy: bool) -> None:
    code = f"""
        import sys
        from mrt.reasoning.grading.math_grader import MathGrader
        grader = MathGrader(seconds=1.0)
        grader.start()
        keeper = grader._workers[0]._process.pid
        print(keeper, open(f"/proc/{{keeper}}/task/{{keeper}}/children").read().split()[0], flush=True)
        grader.grade_answer({HANG if busy else "1"!r}, "5")
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        time.sleep(0.2)
        parent.kill()
    assert wait_until(lambda: not any(map(alive, pids)), seconds=5.0)


def test_many_threads_share_the_workers() -> None:
    pairs = [(rf"\boxed{{x^2={n}+1}}", f"x^2-{n + (n % 3 > 0)}=0") for n in range(60)]
    with MathGrader(workers=2, seconds=10.0) as grader:
        grades = grader.grade_many(pairs)
        assert [grade.reward for grade in grades] == [float(n % 3 > 0) for n in range(60)]
        results: list[list[Grade]] = []
        threads = [threading.Thread(target=lambda: results.append(grader.grade_many(pairs[:20]))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [grades[:20]] * 4


def test_the_worker_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['x']; import runpy; runpy.run_path(sys.stdin.read(), run_name='worker')['parse']('1')"
    )
    path = str(ROOT / "mrt" / "reasoning" / "grading" / "math_worker.py")
    code += "; print([m for m in ('torch', 'mrt', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], input=path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_that_cannot_start_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = MathWorker(SECONDS, 256)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    reply = worker.ask("5", "5", same=True)
    assert reply["verdict"] == "error"
    assert "/nonexistent/python" in reply["detail"]
