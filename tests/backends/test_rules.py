"""The rules by the real promtool, and by the real Prometheus that the quickstart starts with them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.alert_rules import FILES, TESTS, alerts_of, groups_of
from tests.support.backends import Programs, Stack, eventually


def promtool(programs: Programs, *arguments: str | Path) -> str:
    """What promtool says; it must be content."""
    ran = subprocess.run([programs.promtool, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_promtool_accepts_the_rules(programs: Programs) -> None:
    """A file that Prometheus refuses takes all other rules with it; a warning is a fault as well."""
    said = promtool(programs, "check", "rules", "--lint=all", "--lint-fatal", *FILES)
    assert said.count("SUCCESS") == len(FILES)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_and_recording_rules_answer_as_expected(programs: Programs, path: Path) -> None:
    """Each alert fires where it must, in the words that are expected, and nowhere else."""
    assert "SUCCESS" in promtool(programs, "test", "rules", path)


def test_the_quickstart_evaluates_every_rule_without_an_error(stack: Stack) -> None:
    """Promtool does not see what only real series do: two that become one, a label that is not there."""
    wanted = sum(len(group["rules"]) for path in FILES for group in groups_of(path))
    rules = eventually(lambda: [rule for rule in stack.prometheus.rules() if rule["health"] == "ok"][wanted - 1 :])
    assert rules, [rule["lastError"] for rule in stack.prometheus.rules()]
    assert {rule["name"] for rule in stack.prometheus.rules()} >= set(alerts_of(*FILES))
