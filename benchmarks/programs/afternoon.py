"""What a user would build in an afternoon: OpenTelemetry's logging handler, a batch processor and an OTLP exporter."""

from __future__ import annotations

import logging
import warnings


def handler() -> logging.Handler:
    """The handler; its provider flushes when the process exits, as OpenTelemetry's does by itself."""
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return LoggingHandler(logging.NOTSET, provider)
