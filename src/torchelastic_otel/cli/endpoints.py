"""What the endpoints answer: the exporters themselves are made and asked, for ``doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torchelastic_otel.activation import Activation
from torchelastic_otel.cli.command import CommandError
from torchelastic_otel.cli.delivering import exporters_asked_for
from torchelastic_otel.deliver.otel import senders
from torchelastic_otel.deliver.otel.exporters import ExporterError
from torchelastic_otel.deliver.otel.probe import endpoint_of, probe
from torchelastic_otel.deliver.outcome import Verdict
from torchelastic_otel.settings import Settings

if TYPE_CHECKING:
    from torchelastic_otel.cli.diagnosis import Diagnosis

_OTLP: Final = ("otlp", "otlp_proto_grpc", "otlp_proto_http")


def logs(
    found: Diagnosis,
    environ: Mapping[str, str],
    settings: Settings,
    activation: Activation,
    timeout_s: float,
) -> None:
    """Make each exporter that is asked for, and send it nothing."""
    if not activation.active:
        return
    try:
        exporters = exporters_asked_for(environ, settings)
    except CommandError as error:
        found.problems.append(str(error))
        return
    folder = Path(found.spool["directory"]) if found.spool.get("directory") else None
    limited = {**environ, "OTEL_BLRP_EXPORT_TIMEOUT": str(max(1, int(timeout_s * 1_000)))}
    for exporter in exporters:
        told: dict[str, Any] = {"name": exporter.name, "endpoint": None, "protocol": None}
        found.exporters.append(told)
        try:
            sender = senders.make(exporter, settings, limited, found.problems.append, folder)
        except ExporterError as error:
            told["answer"] = f"off: {error.why}"
            found.problems.append(str(error))
            continue
        try:
            if exporter.name not in _OTLP:
                told["answer"] = "ready (it has no endpoint that could be asked)"
                continue
            asked = {"otlp_proto_grpc": "grpc", "otlp_proto_http": "http/protobuf"}.get(exporter.name)
            forced = {"OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": asked} if asked else {}
            endpoint = endpoint_of("logs", {**environ, **forced}, lambda what: None)
            outcome = sender.send([])
            told.update(endpoint=endpoint.url, protocol=endpoint.protocol, answer=outcome.reason or "accepted")
            if outcome.verdict is not Verdict.DELIVERED:
                found.problems.append(f"logs: {endpoint.url} ({endpoint.protocol}) answers: {outcome.reason}")
        finally:
            sender.close()


def other_signals(found: Diagnosis, environ: Mapping[str, str], timeout_s: float) -> None:
    """Ask the endpoints that the environment names for traces and metrics; what they say is told, never held wrong."""
    for signal in ("traces", "metrics"):
        if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            found.other_signals[signal] = {"answer": "not used (OTEL_SDK_DISABLED)"}
            continue
        endpoint = endpoint_of(signal, environ, found.problems.append)
        if environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip() not in ("", "otlp"):
            found.other_signals[signal] = {"answer": f"not used (OTEL_{signal.upper()}_EXPORTER)"}
        elif endpoint.named is None:
            found.other_signals[signal] = {"answer": "not used"}
        else:
            outcome = probe(signal, endpoint, timeout_s)
            found.other_signals[signal] = {
                "endpoint": endpoint.url,
                "protocol": endpoint.protocol,
                "answer": outcome.reason,
            }
