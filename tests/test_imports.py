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
