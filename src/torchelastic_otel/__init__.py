"""Rendezvous, restarts and failures of a distributed PyTorch job, visible in OpenTelemetry.

Importing this imports neither torch nor the OpenTelemetry SDK; each name is imported at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchelastic_otel.version import __version__

if TYPE_CHECKING:
    from torchelastic_otel.errors import TorchelasticOtelError, UnknownDestinationError
    from torchelastic_otel.model.event import ElasticEvent
    from torchelastic_otel.runtime.api import (
        finished_logs,
        finished_metrics,
        finished_spans,
        flush,
        install,
        register_destination,
        uninstall,
        unregister_destination,
    )
    from torchelastic_otel.runtime.installation import Installation, Status
    from torchelastic_otel.settings import Settings
    from torchelastic_otel.worker.context import WorkerContext, attach_context
    from torchelastic_otel.worker.training import training_started

__all__ = [
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
]

_HOMES = {
    "ElasticEvent": "torchelastic_otel.model.event",
    "TorchelasticOtelError": "torchelastic_otel.errors",
    "UnknownDestinationError": "torchelastic_otel.errors",
    "Settings": "torchelastic_otel.settings",
    "Installation": "torchelastic_otel.runtime.installation",
    "Status": "torchelastic_otel.runtime.installation",
    "WorkerContext": "torchelastic_otel.worker.context",
    "attach_context": "torchelastic_otel.worker.context",
    "training_started": "torchelastic_otel.worker.training",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'torchelastic_otel' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES.get(name, "torchelastic_otel.runtime.api")), name)
