"""What the endpoints answer: the exporters themselves are made and asked, for ``doctor``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchelastic_otel.cli.delivery import exporters_asked_for
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


def look_at(
    found: Diagnosis,
    environ: Mapping[str, str],
    settings: Settings,
    activation: Activation,
    timeout_s: float,
) -> None:
    """Make each exporter that is asked for, and send it nothing; say of the other signals why they go nowhere."""
    asked: set[Signal] = set()
    if activation.active:
        try:
            exporters = exporters_asked_for(environ, settings)
        except CommandError as error:
            found.problems.append(str(error))
            exporters = ()
        asked = {exporter.signal for exporter in exporters}
        _ask(found, environ, settings, exporters, timeout_s)
        export_config(environ, settings, found.problems.append)
    for signal in Signal:
        if signal not in asked:
            variable = f"OTEL_{signal.name}_EXPORTER"
            said_no = "none" in environ.get(variable, "")
            found.unused_signals[signal.value] = f"not sent ({variable}=none)" if said_no else "not sent"


def _ask(
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
        told: dict[str, Any] = {"signal": signal.value, "name": exporter.name, "endpoint": None, "protocol": None}
        found.exporters.append(told)
        try:
            sender = make_sender(exporter, limited, found.problems.append, settings=settings, folder=folder)
        except ExporterError as error:
            told["answer"] = f"off: {error.why}"
            found.problems.append(str(error))
            continue
        try:
            if exporter.name not in OTLP:
                told["answer"] = "ready (it has no endpoint that could be asked)"
                continue
            asked = {"otlp_proto_grpc": "grpc", "otlp_proto_http": "http/protobuf"}.get(exporter.name)
            spoken = asked or protocol(environ, lambda what: None, signal)
            endpoint = resolve_endpoint(signal, spoken, environ)
            outcome = sender.probe()
            told.update(endpoint=endpoint.url, protocol=endpoint.protocol, answer=outcome.reason or "accepted")
            if outcome.disposition is not Disposition.DELIVERED:
                found.problems.append(f"{signal.value}: {endpoint.url} ({endpoint.protocol}) answers: {outcome.reason}")
        finally:
            sender.close()
