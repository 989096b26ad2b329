"""What the documents say is held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import torchelastic_otel
from torchelastic_otel import semconv
from torchelastic_otel.cli import COMMANDS
from torchelastic_otel.export.destinations import BUILT_IN
from torchelastic_otel.processing.metrics.catalogue import TABLE
from torchelastic_otel.settings import SETTINGS
from torchelastic_otel.torch_events import messages, parser, rendezvous_messages

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.variable)
def test_every_setting_stands_in_the_readme_with_default_and_meaning(setting: object) -> None:
    """A setting that nobody can find is not there."""
    for part in (setting.variable, setting.default, setting.allowed, setting.meaning):  # type: ignore[attr-defined]
        assert part in README


def test_every_variable_of_ours_that_the_documents_name_exists() -> None:
    """A setting that was renamed must not live on in the documents."""
    known = {setting.variable for setting in SETTINGS}
    assert set(re.findall(r"TORCHELASTIC_OTEL[A-Z_]*", README + ARCHITECTURE)) <= known


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_stands_in_the_readme(command: object) -> None:
    """And what the README names is there."""
    assert f"`torchelastic-otel {command.name}`" in README  # type: ignore[attr-defined]


def test_every_command_that_the_readme_shows_exists() -> None:
    """Nobody types a command of the README in vain."""
    names = {command.name for command in COMMANDS}
    assert set(re.findall(r"torchelastic-otel ([a-z]+)\b", README)) <= names


@pytest.mark.parametrize("destination", [*BUILT_IN, "dynamic_rendezvous"])
def test_every_built_in_destination_stands_in_the_readme(destination: str) -> None:
    """The table of destinations is the registry's."""
    assert f"`{destination}`" in README


def test_every_event_name_stands_in_the_tables_of_events() -> None:
    """Who writes an alert needs the names."""
    table = ARCHITECTURE.partition("| torch | event name | severity |")[2]
    told = set(re.findall(r"`(torchelastic\.[a-z_.]+)` \|", table))
    torchs = {*parser._STATES.values(), *parser._WATCHDOG.values()}
    torchs |= {wording.event for wording in rendezvous_messages.PATTERNS}
    assert told >= {*torchs, *messages._SENTENCES, semconv.UNKNOWN_EVENT, semconv.RENDEZVOUS_FAILED}


def test_every_metric_and_every_span_stands_in_the_tables() -> None:
    """Who builds a dashboard needs them."""
    names = {row.name for row in TABLE} | {value for name, value in vars(semconv).items() if name.startswith("SPAN_")}
    assert names <= set(re.findall(r"`(torchelastic\.[a-z_.]+)`", ARCHITECTURE))


def test_every_public_name_of_the_readme_exists() -> None:
    """The example in the README runs."""
    assert re.findall(r"torchelastic_otel\.(install|uninstall|register_destination)\b", README)
    for name in torchelastic_otel.__all__:
        assert getattr(torchelastic_otel, name) is not None


def test_every_file_that_the_house_names_exists() -> None:
    """ARCHITECTURE.md is read to find something."""
    package = ROOT / "src" / "torchelastic_otel"
    for path in re.findall(r"`((?:capture|deliver|spool|model|events|cli|demo)/[\w/]+\.py)`", ARCHITECTURE):
        assert (package / path).is_file(), path
    for path in re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", README + ARCHITECTURE):
        assert (ROOT / path).exists(), path
