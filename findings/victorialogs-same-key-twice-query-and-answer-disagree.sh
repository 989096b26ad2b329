#!/usr/bin/env bash
# VictoriaLogs v1.52.2 with OpenTelemetry Python 1.45.2 by OTLP/HTTP (Go 1.26, Python 3.11, Linux), run on 2026-12-01
#
# Expected by most: an OTLP log record with an event name and an attribute of the name "event_name" (a common copy for stores that
# drop event names) is stored with one value, or with two fields that can be told apart.
# Seen: one answer line has the JSON key "event_name" twice. A JSON parser keeps the last one, the attribute; a query finds the record
# by the first one only, the event name. What is displayed cannot be queried, and what can be queried is not displayed.
# For users: do not copy the event name into an attribute "event_name" in a Collector in front of VictoriaLogs.
#
# Output seen:
#   keys "event_name" in the answer: 2; a JSON parser reads: from.the.attribute
#   query event_name:="from.the.field": 1 record
#   query event_name:="from.the.attribute": 0 records
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; wait; rm -rf "$folder"' EXIT
GOBIN=$folder go install github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@v1.52.2
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opentelemetry-exporter-otlp-proto-http==1.45.2 opentelemetry-sdk==1.45.2
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/victoria-logs" -storageDataPath "$folder/data" -httpListenAddr "127.0.0.1:$port" > "$folder/log" 2>&1 &
server=$!
cat > "$folder/twice.py" <<'PYTHON'
import json
import sys
import time
import urllib.parse
import urllib.request

from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

base = f"http://127.0.0.1:{sys.argv[1]}"


def get(path):
    for _ in range(300):
        try:
            return urllib.request.urlopen(base + path).read().decode()
        except OSError:
            time.sleep(0.1)
    raise SystemExit("VictoriaLogs does not answer")


def query(text):
    return get("/select/logsql/query?" + urllib.parse.urlencode({"query": text})).splitlines()


get("/health")
provider = LoggerProvider()
exporter = OTLPLogExporter(endpoint=base + "/insert/opentelemetry/v1/logs")
provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
record = LogRecord(body="hello", event_name="from.the.field", attributes={"event_name": "from.the.attribute"})
record.timestamp = time.time_ns()
provider.get_logger("finding").emit(record)
for _ in range(300):
    if lines := query("*"):
        break
    time.sleep(0.1)
count = lines[0].count('"event_name":')
print(f'keys "event_name" in the answer: {count}; a JSON parser reads: {json.loads(lines[0])["event_name"]}')
for value in ("from.the.field", "from.the.attribute"):
    found = len(query(f'event_name:="{value}"'))
    print(f'query event_name:="{value}": {found} record{"" if found == 1 else "s"}')
PYTHON
"$folder/venv/bin/python" "$folder/twice.py" "$port" | tee "$folder/seen"
diff <(sed -n 's/^#   \(keys\|query\)/\1/p' "$0") "$folder/seen" && echo "as described"
