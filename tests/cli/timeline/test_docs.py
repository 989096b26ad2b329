"""What docs/reference/timeline.md and the schema say is held against the command."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torchelastic_otel.cli.timeline import Timeline
from torchelastic_otel.history.types import LeftReason, Outcome, State
from torchelastic_otel.model.cause import REASONS
from torchelastic_otel.model.failure import FAILURE_KINDS, Evidence
from torchelastic_otel.model.phases import Phase

DOCS = Path(__file__).parents[3] / "docs" / "reference"
TEXT = (DOCS / "timeline.md").read_text()
DEFINED = json.loads((DOCS / "timeline.schema.json").read_text())["$defs"]


def test_every_option_stands_in_the_document_and_every_documented_one_exists() -> None:
    """An option that nobody can find is not there."""
    parser = argparse.ArgumentParser(add_help=False)
    Timeline().prepare_parser(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    documented = {line.split("`")[1].split()[0] for line in TEXT.splitlines() if line.startswith("| `--")}
    assert documented == options


def test_the_schema_knows_every_value_that_the_story_can_have() -> None:
    """A value that is added must be documented: scripts branch on them."""
    nodes = {Outcome.SUCCEEDED, Outcome.FAILED, Outcome.RUNNING, Outcome.UNKNOWN}
    run, round_, node = DEFINED["run"]["properties"], DEFINED["round"]["properties"], DEFINED["node"]["properties"]
    assert set(run["outcome"]["enum"]) == {outcome.value for outcome in nodes}
    assert set(round_["outcome"]["enum"]) == {outcome.value for outcome in nodes | {Outcome.INTERRUPTED}}
    assert set(DEFINED["member"]["properties"]["outcome"]["enum"]) == {
        outcome.value for outcome in set(Outcome) - {Outcome.INTERRUPTED}
    }
    assert set(node["left_reason"]["enum"]) == {reason.value for reason in LeftReason} | {None}
    assert set(node["phases"]["items"]["properties"]["phase"]["enum"]) == {phase.value for phase in Phase}
    assert set(DEFINED["restart"]["properties"]["reason"]["enum"]) == set(REASONS)
    assert set(run["time"]["properties"]) == {state.value for state in State} | {"unknown"}


def test_every_property_is_described() -> None:
    """A schema without words leaves its reader guessing."""
    bare = [
        f"{name}.{key}"
        for name, definition in DEFINED.items()
        if name not in ("event",)
        for key, value in definition.get("properties", {}).items()
        if "description" not in value
    ]
    assert bare == []


def test_the_schema_has_every_kind_of_failure_and_what_decides() -> None:
    """Alerts and scripts branch on them."""
    failure = DEFINED["failure"]["properties"]
    assert set(failure["kind"]["enum"]) == {*FAILURE_KINDS, "node_lost", "agent_error"}
    assert set(failure["evidence"]["enum"]) == {evidence.value for evidence in Evidence} | {None}
