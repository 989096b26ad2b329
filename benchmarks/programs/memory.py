"""Where resident memory goes that telemetry adds to an agent: VmRSS by steps, torch's agent imported already."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

_IMPORTS = {
    "SQLite": "sqlite3",
    "gRPC": "grpc",
    "OTLP messages (protobuf)": "opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc",
    "OpenTelemetry SDK, logs": "opentelemetry.sdk._logs.export",
    "OTLP gRPC log exporter": "opentelemetry.exporter.otlp.proto.grpc._log_exporter",
}


def resident_kib() -> int:
    """VmRSS of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def export_one() -> None:
    """A gRPC channel, its threads, and one export: what any use of the exporter costs."""
    import logging

    import afternoon

    handler = afternoon.handler()
    handler.emit(logging.LogRecord("bench", logging.INFO, "", 0, "one", None, None))
    handler.flush()


def ours() -> None:
    """Everything of ours, with one event recorded and delivered."""
    import torchelastic_otel
    from torchelastic_otel import events

    torchelastic_otel.install(watch_torch=False)
    events.record(events.Event("one", events.EventSource.AGENT))
    if not torchelastic_otel.flush():
        raise SystemExit("the event could not be delivered")


def main() -> None:
    """Say the KiB that each step adds."""
    import torch.distributed.run  # noqa: F401 - an agent has it

    added: dict[str, int] = {}

    def step(name: str, do: Callable[[], object]) -> None:
        before = resident_kib()
        do()
        added[name] = resident_kib() - before

    for name, module in _IMPORTS.items():
        step(f"import: {name}", lambda module=module: importlib.import_module(module))  # type: ignore[misc]
    step("OpenTelemetry's own pipeline, one record exported", export_one)
    step("torchelastic-otel, one event delivered", ours)
    print(json.dumps({"kind": "memory", "added": added}), flush=True)


if __name__ == "__main__":
    main()
