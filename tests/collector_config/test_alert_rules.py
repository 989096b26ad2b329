"""Each alert is whole: it says what a person needs at night, is tested both ways, and has its place in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.alert_rules import (
    FILES,
    LOKI,
    ROOT,
    RULES,
    RUNBOOKS,
    VICTORIALOGS,
    alerts_of,
    blocks,
    cases,
    groups_of,
    recorded,
    runbook_sections,
    series_asked_for,
)

sys.path.insert(0, str(ROOT / "scripts"))
from prometheus_names import series_names

from torchelastic_otel.torch_events.catalogue import EVENT_NAMES

PROMETHEUS = alerts_of(*FILES)
ALL = {**PROMETHEUS, **alerts_of(LOKI)}
OF_JOBS = {
    rule["alert"] for group in groups_of(FILES[1]) if group["name"] == "torchelastic-jobs" for rule in group["rules"]
}
TEXTS = (*FILES, LOKI, VICTORIALOGS, *(RULES / "tests").glob("*.yaml"))
NUMBERS = {
    "torchelastic_cluster:lost_node_hours:increase1d",
    "torchelastic_cluster:node_mean_time_to_failure_seconds:1d",
    "torchelastic_run:training_time:ratio_rate1d",
}
"""Recorded for whoever reports them: nothing of ours reads them."""
OURS = {name for names in series_names().values() for name in names}


@pytest.mark.parametrize("name", ALL)
def test_an_alert_says_how_bad_it_is_and_what_to_read(name: str) -> None:
    """Who is woken reads a sentence without a label's braces in it, and opens the runbook at the right place."""
    rule = ALL[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    # the sentence alone, without what is looked up for it
    said = re.sub(r"\{\{.*?\}\}", "x", rule["annotations"]["summary"], flags=re.DOTALL)
    assert len(said) < 100
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


@pytest.mark.parametrize("name", ALL)
def test_an_alert_has_its_section_in_the_runbook(name: str) -> None:
    """What it means, what to look at, what to do: all three, and no section of an alert that is gone."""
    sections = runbook_sections()
    text = sections[name.lower()]
    for heading in ("**What it means.**", "**What to look at.**", "**What to do.**"):
        assert heading in text, heading
    named = {anchor for anchor in sections if anchor.startswith("torchelastic")}
    assert named == {each.lower() for each in ALL}
    assert RUNBOOKS.is_file()


@pytest.mark.parametrize("name", PROMETHEUS)
def test_an_alert_is_tested_both_ways(name: str) -> None:
    """An alert that never fires, and one that always does, are both worse than none."""
    ways = {fires for _, alert, fires in cases() if alert == name}
    assert ways == {True, False}
    # also in a case of its own: not just a moment before it fires
    quiet = {case for case, alert, fires in cases() if alert == name and not fires}
    loud = {case for case, alert, fires in cases() if alert == name and fires}
    assert quiet - loud, "no case in which it never fires"


def test_only_prometheus_rules_lie_where_prometheus_looks() -> None:
    """The quickstart loads ``rules/*.yaml``: a file of another kind there keeps Prometheus from starting."""
    assert sorted(path.name for path in RULES.glob("*.yaml")) == ["alerts.yaml", "recording.yaml"]


def test_rules_ask_for_events_that_exist() -> None:
    """A name that was mistyped, or renamed, is an alert that never fires again."""
    texts = [
        rule["expr"] for path in (*FILES, LOKI, VICTORIALOGS) for group in groups_of(path) for rule in group["rules"]
    ]
    events = {
        name.replace("(succeeded|failed)", each)
        for text in texts
        for name in re.findall(r'event_name:?=~?"(torchelastic[^"]+)"', text)
        for each in (("succeeded", "failed") if "(" in name else ("",))
    }
    assert events <= set(EVENT_NAMES)
    assert len(events) > 5


def test_rules_ask_for_series_that_our_agents_make_or_a_rule_records() -> None:
    """The same, of metrics: by the exporter's own table, with unit and ending."""
    asked = {
        name
        for path in FILES
        for group in groups_of(path)
        for rule in group["rules"]
        for name in series_asked_for(rule["expr"])
    }
    assert asked <= OURS | recorded() | {"up"}
    assert len(asked & OURS) > 10
    # and nothing is recorded for nobody
    dashboards = "".join(path.read_text() for path in (RULES.parent / "dashboards").rglob("*.json"))
    assert recorded() <= asked | {name for name in recorded() if name in RUNBOOKS.read_text() + dashboards} | NUMBERS


def test_the_runbook_asks_for_series_that_exist() -> None:
    """A query with a mistyped name answers that nothing is wrong. The Collector's own names its own test knows."""
    asked = {
        name
        for text in runbook_sections().values()
        for query in blocks(text, "promql")
        for name in series_asked_for(query)
    }
    assert {name for name in asked if name.startswith("torchelastic")} <= OURS | recorded()
    assert len(asked & OURS) > 8


def test_severities_are_what_the_rules_and_the_runbook_say_that_they_mean() -> None:
    """Who is woken at night is woken for a job, and for nothing that can wait."""
    rows = dict(re.findall(r"^\| (critical|warning) \| (.+) \|$", RUNBOOKS.read_text(), flags=re.MULTILINE))
    told = {anchor: severity for severity, row in rows.items() for _, anchor in re.findall(r"\[(\w+)\]\(#(\w+)\)", row)}
    assert told == {name.lower(): rule["labels"]["severity"] for name, rule in ALL.items()}
    named = re.findall(r"\[(\w+)\]\(#(\w+)\)", "".join(rows.values()))
    assert all(anchor == f"torchelastic{name}".lower() for name, anchor in named)
    critical = {name for name, rule in ALL.items() if rule["labels"]["severity"] == "critical"}
    # the same wait, from the log records, with names
    assert critical - {"TorchelasticRendezvousStuckFor"} <= OF_JOBS


def test_files_that_the_rules_name_are_there() -> None:
    """A comment that sends its reader to a file that is gone."""
    for path in TEXTS:
        for word in re.findall(r"(?<![\w/<>.-])[\w./<>-]+\.(?:yaml|md|py|json)\b", path.read_text()):
            if "<" not in word:  # a place on the reader's own machine
                assert any((folder / word).exists() for folder in (path.parent, RULES.parent, ROOT)), (path.name, word)


def test_the_runbooks_link_is_made_whole_by_the_line_that_is_given(tmp_path: Path) -> None:
    """In Alertmanager a relative path is a dead link; we do not know where somebody keeps the runbooks."""
    rules = shutil.copytree(RULES, tmp_path / "rules")
    (line,) = re.findall(r"^# +(sed -i .+)$", FILES[1].read_text(), flags=re.MULTILINE)
    subprocess.run(["sh", "-c", line], cwd=rules, check=True, timeout=30)
    for log_store in ("loki", "victorialogs"):
        there = alerts_of(rules / "alerts.yaml", rules / log_store / "alerts.yaml")
        assert {name: rule["annotations"]["runbook_url"] for name, rule in there.items()} == {
            name: f"https://git.example.org/torchelastic-otel/blob/main/docs/runbooks.md#{name.lower()}" for name in ALL
        }


def test_both_log_stores_have_the_same_alerts() -> None:
    """Names, severities and links of an alert do not depend on the store of the log records."""
    loki, victorialogs = alerts_of(LOKI), alerts_of(VICTORIALOGS)
    assert loki.keys() == victorialogs.keys()
    for name, rule in loki.items():
        twin = victorialogs[name]
        assert twin["labels"] == rule["labels"]
        for annotation in ("summary", "runbook_url"):
            assert twin["annotations"][annotation] == rule["annotations"][annotation]
