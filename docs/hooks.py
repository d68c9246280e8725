"""What mkdocs does to the pages: tags of the test suite leave the fences, and links out of docs/ find a page or text.

On GitHub a page links to files of the repository (`../evals/RESULTS.md`). In the site those that are pages to be read
are copied beside the others; every other link out of docs/ becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIED = {  # in the repository -> in the site
    "README.md": "repository/readme.md",
    "LOG.md": "repository/log.md",
    "PAPERS.md": "repository/papers.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "evals/README.md": "repository/evals.md",
    "evals/RESULTS.md": "repository/results.md",
    "recipes/README.md": "repository/recipes.md",
}
FENCE = re.compile(r"^(```(?:python|bash|yaml)) (?:test|slow)$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for source, target in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=_relink(text, source, target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page as the site shows it."""
    name = page.file.src_uri
    text = FENCE.sub(r"\1", markdown)
    return text if name in COPIED.values() else _relink(text, f"docs/{name}", name)


def _relink(text: str, source: str, target: str) -> str:
    """Links of the repository file `source` made right for its place `target` in the site."""

    def replace(match: re.Match[str]) -> str:
        words, path, anchor = match[1], match[2], match[3] or ""
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inside = COPIED.get(there) or (there.removeprefix("docs/") if there.startswith("docs/") else None)
        if inside is None or not inside.endswith((".md", ".svg")):
            return words
        return f"[{words}]({posixpath.relpath(inside, posixpath.dirname(target) or '.')}{anchor})"

    images = re.sub(r"!\[([^\]]*)\]\(docs/([^)]+)\)", r"![\1](../\2)", text) if source == "README.md" else text
    return LINK.sub(replace, images)
