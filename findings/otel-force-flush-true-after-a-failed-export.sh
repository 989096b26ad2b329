#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2 (Python 3.11, Linux), run on 2026-12-01
#
# Expected by most: force_flush() returns True if everything was exported, False otherwise.
# Seen: BatchLogRecordProcessor and BatchSpanProcessor return True although each export returned FAILURE and the batch was
# discarded. A program that flushes before it exits cannot learn from the SDK that its telemetry was lost.
#
# Output seen:
#   logs: exported 1 batch with FAILURE, force_flush() True, exported again by a second force_flush(): 0
#   spans: exported 1 batch with FAILURE, force_flush() True, exported again by a second force_flush(): 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opentelemetry-sdk==1.45.2
cat > "$folder/flush.py" <<'PYTHON'
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class FailingLogs(LogRecordExporter):
    calls = 0

    def export(self, batch):
        self.calls += 1
        return LogRecordExportResult.FAILURE

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=30000):
        return True


class FailingSpans(SpanExporter):
    calls = 0

    def export(self, spans):
        self.calls += 1
        return SpanExportResult.FAILURE


def report(what, exporter, provider):
    flushed, calls = provider.force_flush(), exporter.calls
    provider.force_flush()
    print(
        f"{what}: exported {calls} batch with FAILURE, force_flush() {flushed}, "
        f"exported again by a second force_flush(): {exporter.calls - calls}"
    )


logs, log_provider = FailingLogs(), LoggerProvider()
log_provider.add_log_record_processor(BatchLogRecordProcessor(logs))
log_provider.get_logger("finding").emit(LogRecord(body="hello", timestamp=1))
report("logs", logs, log_provider)
spans, tracer_provider = FailingSpans(), TracerProvider()
tracer_provider.add_span_processor(BatchSpanProcessor(spans))
tracer_provider.get_tracer("finding").start_span("hello").end()
report("spans", spans, tracer_provider)
PYTHON
"$folder/venv/bin/python" "$folder/flush.py" | tee "$folder/seen"
diff <(sed -n 's/^#   \(logs: \|spans: \)/\1/p' "$0") "$folder/seen" && echo "as described"
