"""The alerts as they are shipped, as data, and made faster for a test that has no minutes to wait.

A faster rule is the shipped rule with shorter times; nothing else of it changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "collector-config" / "rules"
FILES = (RULES / "recording.yaml", RULES / "alerts.yaml")
LOKI = RULES / "loki" / "alerts.yaml"
VICTORIALOGS = RULES / "victorialogs" / "alerts.yaml"
TESTS = tuple(sorted((RULES / "tests").glob("*.yaml")))
RUNBOOKS = ROOT / "docs" / "runbooks.md"


def groups_of(path: Path) -> list[dict[str, Any]]:
    """The groups of a file of rules."""
    return list(yaml.safe_load(path.read_text())["groups"])


def alerts_of(*paths: Path) -> dict[str, dict[str, Any]]:
    """The alerts of files, by name."""
    rules = (rule for path in paths for group in groups_of(path) for rule in group["rules"])
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


def cases() -> Iterator[tuple[str, str, bool]]:
    """Name of the case, alert, and whether it must fire, of each check in the rules' own tests."""
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test.get("alert_rule_test", []):
                yield test["name"], check["alertname"], bool(check.get("exp_alerts"))


def faster(folder: Path, ranges: Mapping[str, str]) -> list[Path]:
    """The shipped rules with these ranges for others and every ``for`` one second, as docs/runbooks.md says it."""
    made = []
    for path in FILES:
        groups = groups_of(path)
        for rule in (rule for group in groups for rule in group["rules"]):
            for long, short in ranges.items():
                rule["expr"] = rule["expr"].replace(f"[{long}]", f"[{short}]")
            if "for" in rule:
                rule["for"] = "1s"
            rule.pop("keep_firing_for", None)
        made.append(folder / path.name)
        made[-1].write_text(yaml.safe_dump({"groups": groups}, sort_keys=False))
    return made


def faster_on_logs(path: Path, folder: Path) -> Path:
    """The shipped rules on log records: evaluated each second, after 4 s of waiting, over the last seconds."""
    groups = groups_of(path)
    for group in groups:
        group["interval"] = "1s"
        for rule in group["rules"]:
            shorter = re.sub(r"(waited\"?\s?:?> ?)300", r"\g<1>4", rule["expr"].replace("11m", "15s"))
            assert shorter != rule["expr"] or "6h" in shorter
            rule["expr"] = shorter
    folder.mkdir(parents=True)
    (folder / path.name).write_text(yaml.safe_dump({"groups": groups}, sort_keys=False))
    return folder / path.name


def runbook_sections() -> dict[str, str]:
    """The runbook's sections by anchor, as a reader's browser makes it of the title."""
    parts = re.split(r"^## (.+)$", RUNBOOKS.read_text(), flags=re.MULTILINE)
    titles, texts = parts[1::2], parts[2::2]
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-"): t for title, t in zip(titles, texts)}  # noqa: B905


_LABELS = re.compile(r"\{[^{}]*\}|\b(?:by|without|on|ignoring|group_left|group_right) \([^()]*\)")


def series_asked_for(promql: str) -> set[str]:
    """The names of series in a query: no label, no function, and nothing in quotes (a pattern of names)."""
    bare = _LABELS.sub("", re.sub(r'"[^"]*"', "", promql))
    return set(re.findall(r"\b(?:torchelastic|otelcol)[\w:]*|\bup\b", bare))


def recorded() -> set[str]:
    """The names of the series that the recording rules make."""
    return {rule["record"] for group in groups_of(FILES[0]) for rule in group["rules"]}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language in a text."""
    return [block.strip() for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)]
