"""The killable workers: limits that hold from everywhere, and nothing left behind."""

import asyncio
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

from mrt.reasoning.grading import Grade, MathGrader, Verdict
from mrt.reasoning.math_process import MathWorker

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 0.5

# (gold, answer): some hang math-verify for hours, the others would if the limits let them through.
HANGS = [
    ("5", r"\binom{1000000000}{500000000}"),
    (r"\int_0^1 \frac{\sin x \cos x e^{x^2}}{x^5+x+1} dx", r"\int_0^2 \frac{\sin x \ln x e^{x^2}}{x^7+x+1} dx"),
    (r"\begin{pmatrix}a&b&c&d\\e&f&g&h\\i&j&k&l\\m&n&o&p\end{pmatrix}^{-1}", "5"),
    ("5", r"9^{9^{9^9}}"),
    ("5", r"\sum_{n=1}^{1000000000} \frac{\sin n}{n^2+1}"),
    ("5", "{" * 400 + "5" + "}" * 400),
    ("9^{9^{9^9}}", "8^{8^{8^8}}"),
    ("5", "100000000!"),
    ("5", "((10!)!)!"),
    ("5", r"\binom{100000000}{50000000}+1"),
    ("(x+y+z)^{20000}", "(x+y+z)^{19999}(x+y+z)+1"),
    ("5", r"\int (x+y+z+w)^{300} dx"),
    ("5", r"\prod_{n=1}^{5000} (x+n)"),
    ("5", r"\prod_{n=1}^{100000000} \frac{n^2+1}{n^2+2}"),
    (r"\sum_{n=1}^{\infty} \frac{\sin n}{n^3+n+1}", r"\sum_{n=1}^{\infty} \frac{\cos n}{n^3+n+1}"),
    ("5", r"\sum_{n=1}^{100000000} x^n y^{n^2}"),
    ("x^{11}-x-1=0", "x^{13}-x-1=0"),
    ("5", r"\begin{vmatrix}a&b&c&d&q\\e&f&g&h&r\\i&j&k&l&s\\m&n&o&p&t\\u&v&w&x&y\end{vmatrix}"),
    ("5", "(" * 20 + "5" + ")^2" * 20),
    ("5", "{1+" * 19 + "5" + "}" * 19),
    ("5", "{ (" * 10 + "5" + ") }" * 10),
    ("5", r"\sqrt{2+" * 19 + r"\sqrt{2}" + "}" * 19),
    ("5", r"\sin(10^{10^{10}})"),
    ("5", r"1.0000001^{10^{15}}"),
    ("5", "+".join(["1"] * 299)),
    ("5", r"\text{a}" * 290),
    ("5", "9" * 1_000_000),
    ("5", "(" * 1_000_000),
]


def bounded(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    """Grades each pair and asserts the bound, and that the next item is graded properly."""
    grades = []
    for gold, answer in pairs:
        start = time.monotonic()
        grades.append(grader.grade_answer(answer, gold))
        assert time.monotonic() - start < SECONDS + 1.0, (gold[:60], answer[:60])
        assert grades[-1].verdict is not Verdict.CORRECT
        assert grader.grade_answer("0.5", r"\frac{1}{2}").verdict is Verdict.CORRECT
    return grades


def from_main(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    return bounded(grader, pairs)


def from_thread(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    grades: list[Grade] = []
    thread = threading.Thread(target=lambda: grades.extend(bounded(grader, pairs)))
    thread.start()
    thread.join()
    assert len(grades) == len(pairs)
    return grades


def from_event_loop(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    async def grade() -> list[Grade]:
        return bounded(grader, pairs)

    return asyncio.run(grade())


def from_subprocess(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    """In a forked child, where the parent's worker must not be touched."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        verdicts = "failed"
        try:
            grader.grade_answer("1", "1")  # its own worker starts
            verdicts = " ".join(grade.verdict.value for grade in bounded(grader, pairs))
        finally:
            grader.close()
            os.write(write, verdicts.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    verdicts = os.read(read, 65536).decode()
    os.close(read)
    return [Grade(Verdict(verdict)) for verdict in verdicts.split()]


CONTEXTS = [from_main, from_thread, from_event_loop, from_subprocess]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(seconds=SECONDS) as grader:
        grader.grade_answer("1", "1")
        yield grader


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


@pytest.mark.parametrize("context", CONTEXTS)
def test_hanging_expressions_are_bounded(grader: MathGrader, context: Callable[..., list[Grade]]) -> None:
    verdicts = [grade.verdict for grade in context(grader, HANGS[:4])]
    assert verdicts == [Verdict.TIMEOUT, Verdict.TIMEOUT, Verdict.TIMEOUT, Verdict.UNPARSED]
    assert Grade(Verdict.TIMEOUT).reward is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("context", CONTEXTS)
def test_all_hanging_expressions_are_bounded(grader: MathGrader, context: Callable[..., list[Grade]]) -> None:
    assert len(HANGS) >= 20
    verdicts = [grade.verdict for grade in context(grader, HANGS)]
    assert len(verdicts) == len(HANGS)
    assert verdicts.count(Verdict.TIMEOUT) >= 8


def test_long_input_is_read_in_no_time(grader: MathGrader) -> None:
    million = 1_000_000
    texts = ["a" * million, "{" * million, "\\" * million, "\\boxed{" * 140_000, "\\boxed{" + "9" * million + "}"]
    texts += ["\\boxed{" * 100_000 + "}" * 100_000, "\\boxed{1}\\boxed{2}" * 50_000, "<think>" * 140_000, "}" * million]
    for text in texts:
        start = time.monotonic()
        assert grader.grade(text, "5").reward == 0.0
        assert time.monotonic() - start < 2.0, text[:20]
    assert grader.grade("a" * million + r"</think>\boxed{5}", "5").verdict is Verdict.CORRECT


def test_a_grader_that_runs_out_of_memory_is_an_error_and_the_next_item_is_fine() -> None:
    worker = MathWorker(seconds=20.0, memory_mb=1024)
    worker.ask("5", "5", same=False)
    status = Path(f"/proc/{processes(worker)[1]}/status").read_text()
    worker.close()
    used_mb = int(status.split("VmSize:")[1].split()[0]) // 1024
    worker.memory_mb = used_mb + 8
    reply = worker.ask("5", "1," * 4000 + "1", same=False)  # beyond the text limits, which are not asked here
    assert reply["verdict"] == "error"
    assert f"memory limit of {used_mb + 8} MB" in reply["detail"]
    worker.memory_mb = 128
    worker.close()
    assert worker.ask("5", "2+3", same=False)["verdict"] == "correct"
    worker.close()


def test_killed_processes_are_replaced(grader: MathGrader) -> None:
    keeper, child = processes(grader._workers[0])
    os.kill(child, signal.SIGKILL)
    assert wait_until(lambda: not alive(child))
    assert [grader.grade_answer("5", "5").verdict for _ in range(3)] == [Verdict.CORRECT] * 3
    os.kill(keeper, signal.SIGKILL)
    assert wait_until(lambda: not alive(keeper))
    assert [grader.grade_answer("5", "5").verdict for _ in range(3)] == [Verdict.CORRECT] * 3
    replaced = processes(grader._workers[0])
    assert set(replaced).isdisjoint({keeper, child})


def test_a_grader_killed_at_work_is_an_error(grader: MathGrader) -> None:
    grader.grade_answer("1", "1")
    _, child = processes(grader._workers[0])
    timer = threading.Timer(0.1, os.kill, (child, signal.SIGKILL))
    timer.start()
    grade = grader.grade_answer(HANGS[0][1], "5")
    timer.join()
    assert grade.verdict is Verdict.ERROR
    assert "exit code -9" in grade.detail
    assert grader.grade_answer("5", "5").verdict is Verdict.CORRECT


def test_closing_leaves_no_process() -> None:
    grader = MathGrader(seconds=SECONDS)
    grader.grade_answer("1", "1")
    pids = processes(grader._workers[0])
    grader.close()
    assert wait_until(lambda: not any(map(alive, pids)))
    grader.close()


@pytest.mark.parametrize("busy", [False, True])
def test_a_parent_killed_with_9_leaves_no_orphan(busy: bool) -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from mrt.reasoning.grading import MathGrader
        grader = MathGrader(seconds=1.0)
        grader.grade_answer("1", "1")
        keeper = grader._workers[0]._process.pid
        print(keeper, open(f"/proc/{{keeper}}/task/{{keeper}}/children").read().split()[0], flush=True)
        grader.grade_answer({HANGS[0][1] if busy else "1"!r}, "5")
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
    pairs = [(rf"\boxed{{{n}+1}}", str(n + (n % 3 > 0))) for n in range(60)]
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
    path = str(ROOT / "mrt" / "reasoning" / "math_worker.py")
    code += "; print([m for m in ('torch', 'mrt', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], input=path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_worker_that_cannot_start_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = MathWorker(SECONDS, 256)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    reply = worker.ask("5", "5", same=True)
    assert reply["verdict"] == "error"
    assert "/nonexistent/python" in reply["detail"]
