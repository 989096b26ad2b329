#!/usr/bin/env bash
# opentelemetry-exporter-otlp-proto-http 1.45.2 (Python 3.11, Linux), run on 2026-12-01
#
# Expected by most: a collector's address that has moved (a redirect) is followed, or the export fails.
# Seen: neither. The exporter does not follow 302, 307 or 308, and counts each of them, and 304, as success: export() returns
# SUCCESS, nothing is logged at WARNING or above, and the records are gone. A 400 is a failure, as expected.
# Both transports of that version (requests, urllib3) make the request without following redirects.
# For users: put the final URL into OTEL_EXPORTER_OTLP_ENDPOINT; a proxy that redirects http to https loses everything silently.
#
# Output seen:
#   302: SUCCESS, requests: POST /302/v1/logs, warnings: 0
#   304: SUCCESS, requests: POST /304/v1/logs, warnings: 0
#   307: SUCCESS, requests: POST /307/v1/logs, warnings: 0
#   308: SUCCESS, requests: POST /308/v1/logs, warnings: 0
#   400: FAILURE, requests: POST /400/v1/logs, warnings: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opentelemetry-exporter-otlp-proto-http==1.45.2 opentelemetry-sdk==1.45.2
cat > "$folder/redirect.py" <<'PYTHON'
import http.server
import logging
import threading

from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

requests, warnings, results = [], [], []


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        requests.append(f"POST {self.path}")
        status = self.path.split("/")[1]
        self.send_response(200 if status == "final" else int(status))
        self.send_header("Location", "/final/v1/logs")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


class Collect(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())


logging.getLogger("opentelemetry").addHandler(Collect(logging.WARNING))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
for status in (302, 304, 307, 308, 400):
    requests.clear(), warnings.clear(), results.clear()
    exporter = OTLPLogExporter(endpoint=f"http://127.0.0.1:{server.server_port}/{status}/v1/logs")
    export = exporter.export
    exporter.export = lambda batch: results.append(export(batch)) or results[-1]
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("finding").emit(LogRecord(body="hello", timestamp=1))
    print(f"{status}: {results[0].name}, requests: {', '.join(requests)}, warnings: {len(warnings)}")
    provider.shutdown()
PYTHON
"$folder/venv/bin/python" "$folder/redirect.py" 2>/dev/null | tee "$folder/seen"
diff <(sed -n 's/^#   \([0-9]*: \)/\1/p' "$0") "$folder/seen" && echo "as described"
