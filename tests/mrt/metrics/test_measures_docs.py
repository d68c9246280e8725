"""docs/measures.md: its blocks run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support import ROOT


def test_blocks_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "measures.md").read_text(), re.MULTILINE | re.DOTALL)
    checks = "assert found.floor < found.mean + 4 * found.se and found.mean - 4 * found.se < found.ceiling\n"
    checks += "assert star.tolist() == [0.2, 0.5, 0.9] and regret.tolist() == [0.6, 0.6]\n"
    checks += "assert at.tolist() == [0, 40, 60, 90] and mean.tolist() == [0, 0.25, 0.75, 1.0] and 0 < share < 1\n"
    code = "\n".join([*blocks, checks])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "between" in done.stdout
    assert len(blocks) == 2
