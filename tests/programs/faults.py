"""Lets one save die at each of its file operations in turn, and looks at what is left.

    python -m tests.programs.faults direct|trainer|replay kill|tear|full|readonly FOLDER [every=N offset=K]

`direct` saves with `mrt.training.checkpoint` alone; `trainer` is a save in the middle of training the bandit, which
is then resumed and has to end as the run that was left alone; `replay` is the same with what was played before kept in
shards. `kill` sends SIGKILL before the operation, `tear`
halves a file of tensors that was just written and then kills, `full` answers ENOSPC and `readonly` EROFS. Every trial
is a fork of this process, so that nothing has to be imported again. Prints a JSON report.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mrt.errors import CheckpointError
from mrt.training import checkpoint as ckpt
from mrt.training.codec import load_tree, save_tree

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
UNLIMITED = 10**9
REFUSED = {"full": errno.ENOSPC, "readonly": errno.EROFS}


class Faults:
    """Counts the file operations under `root` that change something, and strikes at number `at`."""

    def __init__(self, kind: str, root: Path, at: int) -> None:
        self.kind, self.root, self.at = kind, str(root), at
        self.count = 0
        self.armed = False

    def install(self) -> None:
        """For the rest of this process: audit hooks cannot be taken away, so this runs in forks only."""
        sys.addaudithook(self._audit)
        fsync, save_file = os.fsync, safetensors.torch.save_file

        def counted_fsync(handle: int) -> None:
            self._operation()
            fsync(handle)

        def counted_save(tensors: Any, filename: Any, *args: Any, **kwargs: Any) -> None:
            self._operation()
            save_file(tensors, filename, *args, **kwargs)
            if self.kind == "tear":
                self._torn(Path(filename))

        os.fsync, safetensors.torch.save_file = counted_fsync, counted_save

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed or not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if not os.fsdecode(args[0]).startswith(self.root):
            return
        if event in CHANGES or (event == "open" and args[2] & WRITING):
            self._operation()

    def _operation(self) -> None:
        if not self.armed or self.kind == "tear":
            return
        self.count += 1
        if self.kind == "kill" and self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind in REFUSED and self.at <= self.count:  # a disk that is full stays full
            raise OSError(REFUSED[self.kind], os.strerror(REFUSED[self.kind]))

    def _torn(self, path: Path) -> None:
        self.count += self.armed
        if self.armed and self.count == self.at:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def forked(function: Callable[[], None]) -> int:
    """Runs `function` in a fork; its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:  # a fork must not fall back into the parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def direct_save(root: Path, step: int) -> None:
    staging = root / f".staging-{step}"
    folder = staging / f"checkpoint-{step}"
    shutil.rmtree(staging, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("model", "optimizer", "rng_state", "trial_state"):
        save_tree(folder, name, {"step": step, "x": torch.full((300,), float(step))})
    ckpt.finalise(folder, root / f"checkpoint-{step}", step=step)
    staging.rmdir()
    ckpt.prune(root, 2)


def direct(fault: str, folder: Path, choose: Callable[[int], list[int]]) -> dict[str, Any]:
    """One save of step 3 over an older checkpoint-3, with checkpoint-1 and checkpoint-2 there and 1 to be pruned."""
    base = folder / "base"
    for step in (1, 2, 3):
        direct_save(base, step)
    (base / "checkpoint-3" / "model.json").write_text("torn")  # what a resume from checkpoint-2 comes to replace
    make_three(base)

    def attempt(root: Path, at: int, report: Path | None = None) -> None:
        faults = Faults(fault, root, at)
        faults.install()
        faults.armed = True
        try:
            direct_save(root, 3)
        except OSError:
            faults.armed = False
            if fault not in REFUSED:
                raise
        faults.armed = False
        if report:
            report.write_text(str(faults.count))

    def check(root: Path) -> str:
        newest = ckpt.newest_checkpoint(root)
        if newest is None or newest.name not in ("checkpoint-2", "checkpoint-3"):
            raise AssertionError(f"newest whole checkpoint is {newest}")
        state = load_tree(newest, "optimizer")
        if not torch.equal(state["x"], torch.full((300,), float(state["step"]))):
            raise AssertionError(f"{newest} holds other numbers than were saved")
        if len([path for path in ckpt.list_checkpoints(root) if not ckpt.verify(path)]) < 2:
            raise AssertionError(f"fewer than two whole ones: {sorted(os.listdir(root))}")
        ckpt.sweep(root)
        direct_save(root, 3)  # the next save goes through
        if ckpt.verify(root / "checkpoint-3"):
            raise AssertionError("the next save is not whole")
        return newest.name

    return sweep(fault, folder, base, attempt, check, choose)


def make_three(base: Path) -> None:
    """checkpoint-0, whole: with the torn checkpoint-3 there are 0, 1, 2 and 3 before the save."""
    direct_root = base.with_name("other")
    direct_save(direct_root, 0)
    shutil.copytree(direct_root / "checkpoint-0", base / "checkpoint-0")
    direct_save(direct_root, 1)
    if not (base / "checkpoint-1").exists():  # the third save has pruned it
        shutil.copytree(direct_root / "checkpoint-1", base / "checkpoint-1")


def trainer(fault: str, folder: Path, choose: Callable[[int], list[int]], program: str = "bandit") -> dict[str, Any]:
    """The save of step 6 of the bandit, resumed from checkpoint-3; then resumed until done."""
    bandit = importlib.import_module(f"tests.support.{program}")

    def left_alone() -> None:
        run = bandit.build(folder / "alone", max_steps=8)
        run.train()
        (folder / "digest").write_text(bandit.digest(run))

    def until_three() -> None:
        bandit.build(folder / "base", max_steps=3).train()

    if forked(left_alone) or forked(until_three):
        raise SystemExit("the runs without faults failed")
    expected = (folder / "digest").read_text()

    def attempt(root: Path, at: int, report: Path | None = None) -> None:
        run = bandit.build(root, max_steps=8)
        faults = Faults(fault, root, at)
        faults.install()
        save = run._save_checkpoint

        def armed(model: Any, trial: Any) -> None:
            faults.armed = run.state.global_step == 6
            try:
                save(model, trial)
            finally:
                faults.armed = False

        run._save_checkpoint = armed
        try:
            run.train()
        except CheckpointError:
            if fault not in REFUSED:
                raise
        if report:
            report.write_text(str(faults.count))

    def check(root: Path) -> str:
        newest = ckpt.newest_checkpoint(root)
        if newest is None:
            raise AssertionError("no whole checkpoint left")

        def finish() -> None:
            run = bandit.build(root, max_steps=8)
            run.train()
            if bandit.digest(run) != expected:
                raise AssertionError("another end than that of the run left alone")
            if (root / "trials.jsonl").read_bytes() != (folder / "alone" / "trials.jsonl").read_bytes():
                raise AssertionError("trials.jsonl differs from that of the run left alone")

        if forked(finish):
            raise AssertionError(f"resuming from {newest.name} failed")
        return newest.name

    return sweep(fault, folder, folder / "base", attempt, check, choose)


def sweep(
    fault: str,
    folder: Path,
    base: Path,
    attempt: Callable[..., None],
    check: Callable[[Path], str],
    choose: Callable[[int], list[int]],
) -> dict[str, Any]:
    """Counts the operations of one save, then lets it die at each of those chosen."""
    root, report = folder / "root", folder / "count"
    shutil.copytree(base, root)
    if forked(lambda: attempt(root, UNLIMITED, report)):
        raise SystemExit("the save without a fault failed")
    operations, failures, found = int(report.read_text()), [], []
    for at in choose(operations):
        shutil.rmtree(root)
        shutil.copytree(base, root)
        code = forked(lambda at=at: attempt(root, at))
        if code != (0 if fault in REFUSED else -signal.SIGKILL):
            failures.append(f"{at}: ended with {code}")
            continue
        try:
            found.append(check(root))
        except (AssertionError, CheckpointError, OSError) as error:
            failures.append(f"{at}: {error}")
    names = sorted(set(found))
    kept = {"kept_old": found.count(names[0]) if names else 0, "kept_new": found.count(names[1]) if names[1:] else 0}
    return {"operations": operations, "tried": len(choose(operations)), "failures": failures, **kept}


def main(what: str, fault: str, folder: str, *options: str) -> None:
    numbers = {name: int(value) for name, _, value in (option.partition("=") for option in options)}

    def choose(operations: int) -> list[int]:
        return list(range(1 + numbers.get("offset", 0), operations + 1, numbers.get("every", 1)))

    whole = {"direct": direct, "trainer": trainer, "replay": partial(trainer, program="replaying")}[what]
    print(json.dumps(whole(fault, Path(folder), choose)))


if __name__ == "__main__":
    main(*sys.argv[1:])
