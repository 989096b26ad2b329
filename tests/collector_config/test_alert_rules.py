"""Each alert is whole: it says what a person needs at night, is tested both ways, and has its place in the runbook."""

from __future__ import annotations

import re

import pytest
from support.alert_rules import FILES, LOKI, RULES, RUNBOOKS, alerts_of, cases, groups_of, runbook_sections

from torchelastic_otel import semconv
from torchelastic_otel.model.tally.table import EVENT_NAMES

PROMETHEUS = alerts_of(*FILES)
ALL = {**PROMETHEUS, **alerts_of(LOKI)}


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


def test_rules_ask_for_events_and_metrics_that_exist() -> None:
    """A name that was mistyped, or renamed, is an alert that never fires again."""
    texts = [rule["expr"] for path in (*FILES, LOKI) for group in groups_of(path) for rule in group["rules"]]
    events = {
        name.replace("(succeeded|failed)", each)
        for text in texts
        for name in re.findall(r'event_name=~?"(torchelastic[^"]+)"', text)
        for each in (("succeeded", "failed") if "(" in name else ("",))
    }
    assert events <= set(EVENT_NAMES)
    assert len(events) > 5
    known = {value.replace(".", "_") for key, value in vars(semconv).items() if key.isupper() and type(value) is str}
    known |= {f"{semconv.CAUSE}.host".replace(".", "_")}
    for text in texts:
        for word in re.findall(r"(?<![\w:])torchelastic_\w+(?![\w:])", text):
            name = re.sub(r"(_seconds|_bytes)?(_total|_sum|_count)?$", "", word)
            assert name in known, f"{word} in {text}"
