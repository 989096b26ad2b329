"""The public API: the names that users may import. A change of this list is a change of the API."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "torchelastic_otel": [
        "ElasticEvent",
        "Installation",
        "Settings",
        "Status",
        "TorchelasticOtelError",
        "UnknownDestinationError",
        "WorkerContext",
        "__version__",
        "attach_context",
        "finished_logs",
        "finished_metrics",
        "finished_spans",
        "flush",
        "install",
        "register_destination",
        "training_started",
        "uninstall",
        "unregister_destination",
    ],
    "torchelastic_otel.events": [
        "Event",
        "EventMetadataValue",
        "EventSource",
        "NodeState",
        "RdzvEvent",
        "construct_and_record_rdzv_event",
        "get_logging_handler",
        "record",
        "record_rdzv_event",
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_exactly_these(module: str) -> None:
    """A name that is added, renamed or removed by accident fails here."""
    assert sorted(importlib.import_module(module).__all__) == PUBLIC[module]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names])
def test_every_public_name_can_be_imported(module: str, name: str) -> None:
    """Names are imported at their first use: one that has moved fails only then."""
    assert getattr(importlib.import_module(module), name) is not None
