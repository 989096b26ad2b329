"""docs/tutorial.md, typed as it is written: a job that fails once, and its history."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, blocks

pytestmark = [pytest.mark.live, pytest.mark.torch]
PAGE = [block for block in blocks(ROOT / "docs" / "tutorial.md") if not block.not_run]


def test_the_commands_of_the_tutorial_show_what_it_announces(tmp_path: Path) -> None:
    """A newcomer's first ten minutes: the job fails once and succeeds, and the timeline has the reason."""
    (program,) = (block.text for block in PAGE if block.language == "python")
    job, history = (block.text for block in PAGE if block.language == "sh")
    (tmp_path / "train.py").write_text(program)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TORCHELASTIC"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def typed(script: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    exports = next(line for line in job.splitlines() if line.startswith("export "))
    seen = typed(job)
    assert seen.index(" worker.failed ") < seen.index(" restart.completed ") < seen.index(" worker.succeeded ")
    assert "rank 0 finished" in seen
    text = typed(f"{exports}\n{history}")
    assert "2 rounds, 1 restart (worker_failure 1)" in text
    assert "RuntimeError: no such batch: 17" in text
