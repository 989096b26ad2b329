"""The check of the endpoints, for ``doctor``: the exporters are made, and export an empty batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchelastic_otel.cli.delivery import resolve_exporters
from torchelastic_otel.cli.doctor.report import Diagnosis
from torchelastic_otel.errors import CommandError, ExporterError
from torchelastic_otel.export.config import export_config
from torchelastic_otel.export.destinations import Exporter
from torchelastic_otel.export.otel.environment import protocol, resolve_endpoint, with_attempt_timeout
from torchelastic_otel.export.otel.factory import make_sender
from torchelastic_otel.export.result import Disposition
from torchelastic_otel.model.signals import Signal
from torchelastic_otel.runtime.activation import OTLP, Activation
from torchelastic_otel.settings import Settings


def check(
    found: Diagnosis,
    environ: Mapping[str, str],
    settings: Settings,
    activation: Activation,
    timeout_s: float,
) -> None:
    """Probe each configured exporter; report why the other signals are not exported."""
    used: set[Signal] = set()
    if activation.active:
        try:
            exporters = resolve_exporters(environ, settings)
        except CommandError as error:
            found.problems.append(str(error))
            exporters = ()
        used = {exporter.signal for exporter in exporters}
        _probe(found, environ, settings, exporters, timeout_s)
        export_config(environ, settings, found.problems.append)
    for signal in Signal:
        if signal not in used:
            variable = f"OTEL_{signal.name}_EXPORTER"
            disabled = "none" in environ.get(variable, "")
            found.unused_signals[signal.value] = f"not sent ({variable}=none)" if disabled else "not sent"


def _probe(
    found: Diagnosis,
    environ: Mapping[str, str],
    settings: Settings,
    exporters: Sequence[Exporter],
    timeout_s: float,
) -> None:
    folder = Path(found.spool["directory"]) if found.spool.get("directory") else None
    limited = with_attempt_timeout(environ, timeout_s)
    for exporter in exporters:
        signal = exporter.signal
        entry: dict[str, Any] = {"signal": signal.value, "name": exporter.name, "endpoint": None, "protocol": None}
        found.exporters.append(entry)
        try:
            sender = make_sender(exporter, limited, found.problems.append, settings=settings, folder=folder)
        except ExporterError as error:
            entry["answer"] = f"disabled: {error.why}"
            found.problems.append(str(error))
            continue
        try:
            if exporter.name not in OTLP:
                entry["answer"] = "ready (it has no endpoint to probe)"
                continue
            fixed = {"otlp_proto_grpc": "grpc", "otlp_proto_http": "http/protobuf"}.get(exporter.name)
            endpoint = resolve_endpoint(signal, fixed or protocol(environ, lambda what: None, signal), environ)
            result = sender.probe()
            entry.update(endpoint=endpoint.url, protocol=endpoint.protocol, answer=result.reason or "accepted")
            if result.disposition is not Disposition.DELIVERED:
                found.problems.append(f"{signal.value}: {endpoint.url} ({endpoint.protocol}): {result.reason}")
        finally:
            sender.close()
