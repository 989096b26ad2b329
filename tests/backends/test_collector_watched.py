"""What collector-config/README.md has one put into a Prometheus of one's own, before the real promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.backends import Programs
from tests.support.collector_tiers import CONFIGS


def test_promtool_takes_what_the_readme_says_and_finds_the_rules(programs: Programs, tmp_path: Path) -> None:
    """Put beside the folder of rules it is a whole configuration, and no rule of ours is left out."""
    (text,) = re.findall(
        r"## Watch the Collectors\n.*?```yaml\n(.*?)```", (CONFIGS / "README.md").read_text(), re.DOTALL
    )
    (tmp_path / "prometheus.yaml").write_text(text)
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "one.json").write_text('[{"targets": ["node-1:8888"]}]')
    (tmp_path / "rules").mkdir()
    rules = sorted((CONFIGS / "rules").glob("*.yaml"))
    for path in rules:
        shutil.copy(path, tmp_path / "rules")
    done = subprocess.run(
        [programs.promtool, "check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yaml"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"SUCCESS: {len(rules)} rule files found" in said
    assert said.count("rules found") == len(rules) >= 2
