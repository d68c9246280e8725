"""README and docs/: their blocks run as they stand, their links lead somewhere, and the site's navigation is whole."""

import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from docs.hooks import COPIED, _relink
from tests.support import ROOT
from tests.test_house import tracked

pytestmark = pytest.mark.training

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHER_PAGES = [ROOT / name for name in (*COPIED, "AGENTS.md", "SECURITY.md", "CHANGELOG.md") if name != "README.md"]
FENCE = re.compile(r"^```(\w+)(?: (test|slow))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w.]+\.(?:py|yaml))\n")  # the first line of a block that is a file
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# These pages have tests of their own that run every block.
OWN_TEST = {
    "multi-node.md": ROOT / "tests" / "mrt" / "cli" / "test_slurm.py",
    "environments.md": ROOT / "tests" / "mrt" / "control" / "envs" / "test_environment_docs.py",
    "measures.md": ROOT / "tests" / "mrt" / "metrics" / "test_measures_docs.py",
}
# Blocks that are shown and not run: placeholders for the reader's own objects, and what installs or trains for long.
SHOWN = {
    "README.md": (
        "make quickstart",
        "reward_funcs=my_reward",
        "load_policy",
    ),
    "index.md": ("make install", "pip install -e"),
    "inference.md": ("mrt train inference/",),
    "exploration.md": ("evals.control.exploration_study",),
    "learned.md": ("mrt train memory/", "mrt train model_based/", "mrt train meta_learned/"),
    "attempts.md": ("mrt train attempts/",),
    "tasks.md": (
        "mrt train control/rl2-grid-navi tasks.tell_task",
        "tasks.online=true",
        "mrt train task_distributions/",
        "mrt train emergent/",
        "population.map(jobs)",
        "PBTTrainer",
    ),
    "rivals.md": ("mrt train rivals/",),
    "systems.md": ("mrt train inference/",),
}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> list[tuple[str, str]]:
    """(language, text) of the blocks with this tag, and of those that are files."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [(language, text) for language, tag, text in found if tag == kind or NAMED.match(text)]


def run_blocks(page: Path, kind: str, folder: Path) -> None:
    """In order, in one copy of the checkout, neighbours of one language in one process: a later block may use what an
    earlier one made. Blocks that are files are written first."""
    found = blocks(page, kind)
    programs = [(language, text) for language, text in found if not NAMED.match(text)]
    if not programs:
        pytest.skip(f"{name_of(page)} has no block tagged `{kind}`")
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    for _, text in found:
        if named := NAMED.match(text):
            (folder / named[1]).write_text(text, encoding="utf-8")
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": search, "PYTHONPATH": str(folder)}
    for language, group in groupby(programs, key=lambda block: block[0]):
        text = "\n".join(text for _, text in group)
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks(page: Path, tmp_path: Path) -> None:
    run_blocks(page, "test", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_slow_blocks(page: Path, tmp_path: Path) -> None:
    run_blocks(page, "slow", tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_is_left_out(page: Path) -> None:
    if page.name in OWN_TEST:
        assert OWN_TEST[page.name].is_file()
        return
    shown = SHOWN.get(page.name, ())
    for language, tag, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language in ("python", "bash") and not tag:
            assert any(words in text for words in shown), f"tag it `{language} test`, or name it in SHOWN:\n{text}"


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES + OTHER_PAGES, ids=name_of)
def test_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        path, _, place = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name_of(page)} links to {link}, which is not there"
        if place:
            headings = {anchor(heading) for heading in HEADING.findall(target.read_text(encoding="utf-8"))}
            assert place in headings, f"{name_of(page)} links to {link}: no such heading"


def test_the_site_shows_every_page() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["strict"] is True

    def files(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        entries = entry.values() if isinstance(entry, dict) else entry
        return set().union(*(files(one) for one in entries))  # type: ignore[attr-defined]

    assert files(config["nav"]) == {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}


def test_names_of_the_api_pages_exist() -> None:
    from importlib import import_module

    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            *folders, last = name.split(".")
            if (ROOT.joinpath(*folders, last)).with_suffix(".py").is_file() or ROOT.joinpath(*folders, last).is_dir():
                continue
            assert hasattr(import_module(".".join(folders)), last), f"{page.name}: {name} is not there"


PATH = re.compile(r"`((?:mrt|classic_metarl|recipes|evals|tests|docs)/[\w./*-]+)`")
DOTTED = re.compile(r"`((?:mrt|classic_metarl)(?:\.\w+)+)`")


def exists(dotted: str) -> bool:
    """Whether it is a module, or a name that a module defines (read, not imported)."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
        if source.is_file():
            text = source.read_text(encoding="utf-8")
            return all(re.search(rf"\b{re.escape(name)}\b", text) for name in parts[count:])
    return False


@pytest.mark.parametrize("page", PAGES + OTHER_PAGES, ids=name_of)
def test_paths_and_names_in_prose_exist(page: Path) -> None:
    if page.name in ("LOG.md", "CHANGELOG.md"):
        pytest.skip("they tell of what was, too")
    text = page.read_text(encoding="utf-8")
    assert [path for path in PATH.findall(text) if not list(ROOT.glob(path.rstrip("/")))] == []
    assert [name for name in DOTTED.findall(text) if not exists(name)] == []


def test_a_wrong_name_in_prose_is_seen() -> None:
    assert exists("mrt.credit.progress.progress")
    assert not exists("mrt.credit.progress.regress")
    assert not exists("mrt.nowhere.at_all")


def test_links_of_the_site() -> None:
    text = "[a](../evals/RESULTS.md), [b](../mrt/trials.py), [c](credits.md#by-hand), [d](https://x.org)"
    shown = "[a](repository/results.md), b, [c](credits.md#by-hand), [d](https://x.org)"
    assert _relink(text, "docs/concepts.md", "concepts.md") == shown
    assert (
        _relink("[a](gates/table.yaml) [b](../README.md)", "evals/README.md", "repository/evals.md")
        == "a [b](readme.md)"
    )
    assert _relink("![i](docs/images/x.svg)", "README.md", "repository/readme.md") == "![i](../images/x.svg)"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
