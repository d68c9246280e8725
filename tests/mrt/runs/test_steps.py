"""Steps as subprocesses: order, width, skipping, failing, interrupting, and what is left behind."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mrt.errors import ConfigError
from mrt.runs.steps import Display, Progress, Step, StepFailed, StepRunner, count_lines, last_object, resident_gib

pytestmark = pytest.mark.training

SCRIPT = """
import sys, time, pathlib
name, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
events = pathlib.Path("events")
with events.open("a") as file: file.write(f"start {name}\\n")
print("the reason stands here", file=sys.stderr)
time.sleep(seconds)
if code == 0: pathlib.Path(name).touch()
with events.open("a") as file: file.write(f"end {name}\\n")
sys.exit(code)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step(name: str, *needs: str, seconds: float = 0.0, code: int = 0) -> Step:
    command = [sys.executable, "-c", SCRIPT, name, str(seconds), str(code)]
    return Step(name, command, finished=lambda: Path(name).exists(), needs=needs)


def run(folder: Path, *steps: Step, width: int = 2) -> tuple[dict, str]:
    stream = io.StringIO()
    return StepRunner(folder, steps, width, stream).run(), stream.getvalue()


def events(folder: Path) -> list[str]:
    return (folder / "events").read_text().splitlines()


def test_order_and_width(folder: Path) -> None:
    timings, shown = run(
        folder, step("a"), step("b", "a", seconds=0.8), step("c", "a", seconds=0.8), step("d", "b", "c")
    )
    happened = events(folder)
    assert happened[:2] == ["start a", "end a"]
    assert set(happened[2:4]) == {"start b", "start c"}  # side by side
    assert happened[-2:] == ["start d", "end d"]
    assert timings["seconds"] >= 0.8
    assert timings["steps"].keys() == {"a", "b", "c", "d"}
    assert 0 < timings["peak_resident_gib"] < 64
    assert json.loads((folder / "timings.json").read_text()) == timings
    assert "d: done in" in shown


def test_no_more_than_the_width_at_a_time(folder: Path) -> None:
    run(folder, step("a"), step("b"), width=1)
    assert events(folder) == ["start a", "end a", "start b", "end b"]


@pytest.mark.parametrize("steps", [[("b", "a")], [("a", "b"), ("b", "a")]])
def test_a_step_whose_need_never_comes_is_named(folder: Path, steps: list[tuple[str, str]]) -> None:
    """It was waited for without end, at full load."""
    with pytest.raises(ConfigError, match=r"the step '.' needs ., which none of the steps makes"):
        StepRunner(folder, [step("c"), *(step(name, need) for name, need in steps)]).run()
    assert Path("c").exists()


def test_waiting_asks_nothing(folder: Path) -> None:
    """While every place is taken nobody asks whether the others are finished, nor, without a terminal, how far it is:
    both may read files, twice a second for hours."""
    asked: list[str] = []

    def counted(name: str, *needs: str, seconds: float = 0.0) -> Step:
        made = step(name, *needs, seconds=seconds)

        def progress() -> Progress:
            asked.append(f"progress {name}")
            return Progress()

        return replace(made, finished=lambda: asked.append(name) or made.finished(), progress=progress)

    run(folder, counted("a", seconds=2.0), counted("b"), counted("c", "a"), width=1)
    assert asked == ["a", "a", "b", "b", "c", "c"]  # before it starts, and after it ended
    assert events(folder) == ["start a", "end a", "start b", "end b", "start c", "end c"]


def test_what_is_finished_is_skipped(folder: Path) -> None:
    (folder / "a").touch()
    _, shown = run(folder, step("a"), step("b", "a"))
    assert events(folder) == ["start b", "end b"]
    assert "a: finished before" in shown


@pytest.mark.parametrize(
    ("code", "error"), [(1, StepFailed), (2, ConfigError), (130, KeyboardInterrupt), (3, StepFailed)]
)
def test_a_failure_stops_the_others(folder: Path, code: int, error: type[BaseException]) -> None:
    start = time.monotonic()
    with pytest.raises(error) as caught:
        run(folder, step("a", code=code), step("b", seconds=60), step("c", "a"))
    assert time.monotonic() - start < 20
    assert "end b" not in events(folder)
    assert "start c" not in events(folder)
    if error is not KeyboardInterrupt:
        assert "the step 'a'" in str(caught.value)
        assert "the reason stands here" in str(caught.value)


def test_a_step_that_ends_without_its_result_has_failed(folder: Path) -> None:
    silent = Step("a", [sys.executable, "-c", "pass"], finished=lambda: False)
    with pytest.raises(StepFailed, match="exit code 0"):
        run(folder, silent)


def test_an_interrupt_ends_the_children_and_the_next_call_goes_on(folder: Path) -> None:
    def interrupt() -> None:
        while not (folder / "events").exists() or "start b" not in events(folder):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(folder, step("a"), step("b", "a", seconds=60))
    thread.join()
    assert (
        subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "the reason stands"], capture_output=True).stdout == b""
    )
    first = json.loads((folder / "timings.json").read_text())
    timings, _ = run(folder, step("a"), step("b", "a"))
    assert events(folder) == ["start a", "end a", "start b", "start b", "end b"]
    assert timings["steps"]["b"] >= first["steps"]["b"]  # times add up
    assert timings["seconds"] >= first["seconds"]


def test_children_have_one_thread_and_no_network(folder: Path) -> None:
    code = "import os, json; json.dump(dict(os.environ), open('seen', 'w'))"
    run(folder, Step("a", [sys.executable, "-c", code], finished=lambda: Path("seen").exists()))
    seen = json.loads((folder / "seen").read_text())
    assert (seen["OMP_NUM_THREADS"], seen["HF_HUB_OFFLINE"]) == ("1", "1")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_display() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        display = Display(stream)
        display.line("begin")
        display.show({"grpo": Progress(5, 20, "reward 0.300"), "mrt": Progress()})
        display.line("end")
    assert "grpo [##........] 5/20 reward 0.300 | mrt ..." in terminal.getvalue()
    assert terminal.getvalue().count("\r\x1b[K") == 2  # drawn, and taken away again
    assert pipe.getvalue() == "[00:00] begin\n[00:00] end\n"  # a line every half minute would come later


def test_readers_of_files_that_grow(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert (last_object(path), count_lines(path)) == ({}, 0)
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert (last_object(path), count_lines(path)) == ({"step": 2}, 2)
    path.write_text("x" * 10_000 + '\n{"step": 3}\n')
    assert last_object(path, tail=64) == {"step": 3}


def test_resident() -> None:
    assert 0.01 < resident_gib() < 64


def test_a_killed_step_runs_again(folder: Path) -> None:
    script = "import os, pathlib, signal; p = pathlib.Path('tried'); n = len(p.read_text()) if p.exists() else 0; "
    script += "p.write_text('x' * (n + 1)); n < 2 and os.kill(os.getpid(), signal.SIGKILL); pathlib.Path('a').touch()"
    made = Step("a", [sys.executable, "-S", "-c", script], finished=lambda: Path("a").exists())
    stream = io.StringIO()
    StepRunner(folder, [made], stream=stream, tries=3).run()
    assert Path("tried").read_text() == "xxx"
    assert "its process was killed; it runs again (3 of 3)" in stream.getvalue()
    Path("a").unlink()
    Path("tried").unlink()
    with pytest.raises(StepFailed, match="exit code -9"):
        StepRunner(folder, [made], stream=stream, tries=2).run()
