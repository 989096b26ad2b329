"""The reference has every name that users may use, and no name that does not exist."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest

import torchelastic_otel
from tests.support.markdown import ROOT, files
from torchelastic_otel import events, semconv
from torchelastic_otel.cli import COMMANDS
from torchelastic_otel.cli.command import Command
from torchelastic_otel.environment_variables import SET_FOR_WORKERS
from torchelastic_otel.export.destinations import BUILT_IN_DESTINATIONS
from torchelastic_otel.history import types as history_types
from torchelastic_otel.processing.metrics.catalogue import METRICS
from torchelastic_otel.settings import SETTINGS, Setting
from torchelastic_otel.torch_events import catalogue

REFERENCE = {path.stem: path.read_text() for path in files("docs/reference")}
DOCUMENTS = {path: path.read_text() for path in files("README.md", "ARCHITECTURE.md", "docs", "collector-config")}
NAMES = set(re.findall(r"`(torchelastic\.[a-z_.]+)`", "\n".join(REFERENCE.values())))


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.variable)
def test_every_setting_has_its_row(setting: Setting) -> None:
    """Variable, default, allowed values and meaning."""
    row = f"| `{setting.variable}` | {setting.default} | {setting.allowed} | {setting.meaning} |"
    assert row in REFERENCE["settings"]


def test_every_variable_that_a_document_names_exists() -> None:
    """A setting that was renamed must not live on in the documents."""
    slurm = {"TORCHELASTIC_OTEL_EPILOG_TIMEOUT", "TORCHELASTIC_OTEL_PROGRAM"}  # of collector-config/slurm/epilog.sh
    known = {setting.variable for setting in SETTINGS} | set(SET_FOR_WORKERS) | slurm
    for path, text in DOCUMENTS.items():
        assert set(re.findall(r"\bTORCHELASTIC_OTEL(?:_[A-Z]+)*\b", text)) <= known, path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_and_option_is_described(command: Command) -> None:
    """With its exit statuses."""
    (section,) = re.findall(rf"^## {command.name}\n(.*?)(?=^## |\Z)", REFERENCE["commands"], re.DOTALL | re.MULTILINE)
    parser = argparse.ArgumentParser(add_help=False)
    command.prepare_parser(parser)
    for option in (option for action in parser._actions for option in action.option_strings):
        assert option in section
    for code, meaning in command.exit_codes.items():
        assert re.search(rf"^ +{code} +{re.escape(meaning)}$", section, re.MULTILINE)


def test_every_command_that_a_document_names_exists() -> None:
    """A command that a reader types is there."""
    names = {command.name for command in COMMANDS}
    for path, text in DOCUMENTS.items():
        assert set(re.findall(r"`torchelastic-otel ([a-z]+)\b", text)) <= names, path


@pytest.mark.parametrize("destination", [*BUILT_IN_DESTINATIONS, "dynamic_rendezvous"])
def test_every_built_in_destination_has_its_row(destination: str) -> None:
    """The table of destinations is the registry's."""
    rows = [line.split("|")[1] for line in REFERENCE["destinations"].splitlines() if line.startswith("| `")]
    assert any(f"`{destination}`" in row for row in rows)


def test_every_event_has_its_row() -> None:
    """Somebody who writes an alert needs the names."""
    rows = set(re.findall(r"\| `(torchelastic\.[a-z_.]+)` \| [A-Z]+ \|", REFERENCE["events"]))
    of_torch = {event.name for event in catalogue.EVENTS if event.source}
    assert {semconv.UNKNOWN_EVENT, semconv.RENDEZVOUS_FAILED, semconv.RENDEZVOUS_MESSAGE} < of_torch
    inferred = set(re.findall(r"^\| `(torchelastic\.[a-z_.]+)` \| [A-Z]+ \|", REFERENCE["events"], re.MULTILINE))
    assert inferred == set(catalogue.INFERRED)
    assert rows | inferred == of_torch | inferred


def test_every_metric_and_every_span_has_its_row() -> None:
    """Somebody who builds a dashboard needs them."""
    constants = {value for name, value in vars(semconv).items() if name.startswith(("SPAN_", "METRIC_"))}
    names = {row.name for row in METRICS} | constants
    assert {name for name in names if not name.endswith(".")} <= NAMES


def test_every_public_name_is_in_the_python_reference() -> None:
    """What is not there is internal; what is there exists."""
    documented = re.findall(r"^\.\. (?:auto(?!module)|py:)\w+:: (\S+)$", REFERENCE["python"], re.MULTILINE)
    documented = [name if "." in name else f"torchelastic_otel.{name}" for name in documented]
    public = [f"torchelastic_otel.{name}" for name in torchelastic_otel.__all__ if name != "__version__"]
    public += [f"torchelastic_otel.events.{name}" for name in events.__all__]
    assert sorted(documented) == sorted(public)
    assert all(getattr(torchelastic_otel, name) is not None for name in torchelastic_otel.__all__)


def test_every_type_of_the_history_is_in_its_explanation() -> None:
    """The page shows how the types are nested; a renamed one would not be found."""
    page = DOCUMENTS[ROOT / "docs" / "explanation" / "history.md"]
    for name, kind in vars(history_types).items():
        if dataclasses.is_dataclass(kind) and kind.__module__ == history_types.__name__:
            assert re.search(rf"\b{name}\b", page), name


def test_examples_import_public_modules_only() -> None:
    """Nobody builds on a module that may change in any version."""
    for path in files("README.md", "docs"):
        imported = re.findall(r"^(?:from|import) (torchelastic_otel[\w.]*)", path.read_text(), re.MULTILINE)
        generated = "[[[cog" in path.read_text()
        assert generated or set(imported) <= {"torchelastic_otel", "torchelastic_otel.events"}, path


def test_every_file_that_architecture_md_names_exists() -> None:
    """ARCHITECTURE.md is read to find something."""
    package, text = ROOT / "src" / "torchelastic_otel", DOCUMENTS[ROOT / "ARCHITECTURE.md"]
    for path in re.findall(r"`((?:\w+/)+\w+\.py|semconv\.py|settings\.py)`", text):
        assert (package / path).is_file(), path
    for path in re.findall(r"`((?:\w+/)+)`", text):
        assert (ROOT / path).is_dir() or (package / path).is_dir() or _below(package, path), path


def test_the_table_of_packages_names_what_is_in_them() -> None:
    """A module that was renamed or merged is not looked for in vain."""
    rows = re.findall(r"^\| \d \| `([\w/]+)/` \| (.+) \|$", DOCUMENTS[ROOT / "ARCHITECTURE.md"], re.MULTILINE)
    assert len(rows) > 10
    for package, content in rows:
        folder = ROOT / "src" / "torchelastic_otel" / package
        modules = {path.stem for path in folder.rglob("*")}
        text = "\n".join(path.read_text() for path in folder.rglob("*.py"))
        for name in re.findall(r"`(\w+)/?`", content):
            assert name in modules or re.search(rf"\b(def|class) {name}\b", text), f"{package}/ has no {name}"


def _below(package: Path, path: str) -> bool:
    return any(package.glob(f"**/{path}"))


def test_architecture_md_names_every_package() -> None:
    """And a package that is new has a place in it."""
    package, text = ROOT / "src" / "torchelastic_otel", DOCUMENTS[ROOT / "ARCHITECTURE.md"]
    for path in package.iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"`{path.name}/`" in text, path.name
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert f"`{path.stem}`" in text, path.name


def test_the_record_that_the_readme_shows_has_the_body_of_this_version() -> None:
    """It was recorded by an earlier one: a changed message must be recorded anew."""
    bodies = set()
    for path in (ROOT / "tests" / "recordings" / "llama-finetune").glob("*.logs.jsonl"):
        for line in path.read_text().splitlines():
            scopes = [scope for resource in json.loads(line)["resourceLogs"] for scope in resource["scopeLogs"]]
            records = [record for scope in scopes for record in scope["logRecords"]]
            for record in (each for each in records if each.get("eventName") == semconv.RESTART_COMPLETED):
                attributes = {}
                for attribute in record["attributes"]:
                    ((kind, value),) = attribute["value"].items()
                    attributes[attribute["key"]] = int(value) if kind == "intValue" else value
                message = catalogue.INFERRED[semconv.RESTART_COMPLETED].message
                assert message is not None
                assert record["body"]["stringValue"] == message(attributes)
                bodies.add(record["body"]["stringValue"])
    assert any(body in DOCUMENTS[ROOT / "README.md"] for body in bodies)


@pytest.mark.parametrize(("path", "most"), [("README.md", 150), ("ARCHITECTURE.md", 200)])
def test_the_first_documents_are_short(path: str, most: int) -> None:
    """What does not fit is in docs/."""
    assert len((ROOT / path).read_text().splitlines()) <= most
