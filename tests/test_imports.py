"""What an import costs whom."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "opentelemetry", "grpc", "requests", "sqlite3", "google")


def modules_after(statements: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after these statements."""
    code = (
        f"{statements}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.torch_unloaded
@pytest.mark.parametrize(
    "statements",
    [
        "import torchelastic_otel",
        "import torchelastic_otel.runtime.entry_point",
        "import torchelastic_otel.instrument.events_hook",
        "import torchelastic_otel.events",
        "import torchelastic_otel.cli",
        "import torchelastic_otel.runtime.api",
    ],
)
def test_importing_it_imports_neither_torch_nor_the_sdk_nor_the_spool(statements: str) -> None:
    """A worker that loads the entry point pays nothing; an agent's main thread pays little."""
    assert modules_after(statements).isdisjoint(HEAVY)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """The lazy package must answer as a plain one."""
    import torchelastic_otel

    with pytest.raises(AttributeError, match="no attribute 'instal'"):
        torchelastic_otel.instal  # noqa: B018


PRELOAD = """
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.otel import factory
from torchelastic_otel.model.signals import Signal
factory.preload([Exporter(name, None, signal) for name in {names!r} for signal in Signal], {{}})
"""


def test_exporters_that_encode_nothing_load_no_protobuf() -> None:
    """It costs import time beside torch's main thread, and training images often have an incompatible one."""
    assert "google" not in modules_after(PRELOAD.format(names=["console_line", "memory", "sdk"]))
    assert "google" in modules_after(PRELOAD.format(names=["file"]))


def test_an_incompatible_protobuf_raises_nothing_before_the_exporters_are_made() -> None:
    """What is detected for the resource afterwards would be lost otherwise."""
    incompatible = """
import importlib.abc, sys
class Incompatible(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("opentelemetry.proto."):
            raise TypeError("Descriptors cannot be created directly.")
sys.meta_path.insert(0, Incompatible())
"""
    names = ["file", "otlp_proto_http", "otlp_proto_grpc", "memory"]
    assert "opentelemetry" in modules_after(incompatible + PRELOAD.format(names=names))
