"""Whether an endpoint answers: an empty export by the installed exporter, and what came back; for ``doctor``.

What always holds: one request for each signal, nothing in it, no retry; the exporter itself builds it, so that
headers, certificates and compression are those of a real one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchelastic_otel.deliver.otel import environment
from torchelastic_otel.deliver.otel.attempt import Answered, one_line, quietly
from torchelastic_otel.deliver.outcome import Outcome, Verdict

_SIGNALS: Final = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a signal would go.

    Attributes:
        url: As the environment names it, or the default.
        protocol: ``grpc`` or ``http/protobuf``.
        named: The variable that names it; ``None`` for the default.
    """

    url: str
    protocol: str
    named: str | None


def endpoint_of(signal: str, environ: Mapping[str, str], warn: Callable[[str], None]) -> Endpoint:
    """Where the environment sends a signal (``logs``, ``traces``, ``metrics``) by OTLP.

    OpenTelemetry specification, "OpenTelemetry Protocol Exporter": the path is added to the general endpoint only.
    """
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    general = "OTEL_EXPORTER_OTLP_ENDPOINT"
    chosen = environment.first_set(environ, f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL")
    protocol = environment.protocol({**environ, environment.PROTOCOLS[0]: chosen or ""}, warn)
    if signal == "logs":
        protocol = environment.protocol(environ, warn)
    named = next((name for name in (own, general) if environ.get(name, "").strip()), None)
    if named is None:
        url = "http://localhost:4317" if protocol == "grpc" else f"http://localhost:4318/v1/{signal}"
    else:
        url = environ[named].strip()
        if named == general and protocol != "grpc":
            url = f"{url.rstrip('/')}/v1/{signal}"
    return Endpoint(url, protocol, named)


def probe(signal: str, endpoint: Endpoint, timeout_s: float) -> Outcome:
    """What the endpoint answers to an empty export of ``traces`` or ``metrics``.

    Args:
        signal: The signal.
        endpoint: Where to.
        timeout_s: How long to wait, seconds.
    """
    try:
        with quietly():
            (_probe_http if endpoint.protocol == "http/protobuf" else _probe_grpc)(signal, endpoint, timeout_s)
    except Answered as answered:
        return answered.outcome
    except Exception as error:  # noqa: BLE001 - whatever an exporter raises is what there is to tell
        return Outcome(Verdict.HOLD, f"{type(error).__name__}: {one_line(str(error))}")
    return Outcome(Verdict.RETRY, "no answer was seen")


def _empty(signal: str) -> Any:
    from opentelemetry.sdk.metrics.export import MetricsData

    return [] if signal == "traces" else MetricsData([])


def _probe_http(signal: str, endpoint: Endpoint, timeout_s: float) -> None:
    import importlib

    import requests

    from torchelastic_otel.deliver.otel.http import LONGEST_BODY, outcome_of_error, outcome_of_response

    class Session(requests.Session):
        def request(self, *args: Any, **kwargs: Any) -> Any:
            kwargs.update(allow_redirects=False, stream=True)
            if kwargs.get("verify") is None and self.verify is not True:
                kwargs["verify"] = self.verify
            try:
                response = super().request(*args, **kwargs)
            except Exception as error:
                raise Answered(outcome_of_error(error)) from error
            with response:
                body = response.raw.read(LONGEST_BODY, decode_content=True)
            raise Answered(outcome_of_response(response, body, now_ns=time.time_ns()))

    module, name = _SIGNALS[signal]
    exporters = importlib.import_module(f"opentelemetry.exporter.otlp.proto.http.{module}")
    # the exporter's base for its endpoint is the environment; this one is resolved already
    exporter = getattr(exporters, name)(endpoint=endpoint.url, session=Session(), timeout=timeout_s)
    try:
        exporter.export(_empty(signal))
    finally:
        exporter.shutdown()


def _probe_grpc(signal: str, endpoint: Endpoint, timeout_s: float) -> None:
    import importlib

    import grpc

    from torchelastic_otel.deliver.otel.grpc import outcome_of_status

    module, name = _SIGNALS[signal]
    exporters = importlib.import_module(f"opentelemetry.exporter.otlp.proto.grpc.{module}")
    exporter = getattr(exporters, name)(
        endpoint=endpoint.url, timeout=timeout_s, compression=grpc.Compression.NoCompression
    )
    stub = exporter._client

    class Stub:
        def Export(self, request: Any, metadata: Any = None, timeout: float | None = None) -> Any:
            try:
                stub.Export(request, metadata=metadata, timeout=timeout_s)
            except grpc.RpcError as error:
                raise Answered(outcome_of_status(error)) from error
            raise Answered(Outcome(Verdict.DELIVERED, "gRPC OK"))

    exporter._client = Stub()
    try:
        exporter.export(_empty(signal))
    finally:
        exporter.shutdown()
