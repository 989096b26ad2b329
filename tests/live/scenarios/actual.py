"""What was reported of a scenario: received telemetry, spool rows and the timeline, by agent.

Guarantees: nothing is judged here; duplicates are preserved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live.harness import is_beat, otlp
from tests.live.scenarios.cluster import Cluster
from tests.support.received import ReceivedMetric, ReceivedSpan
from torchelastic_otel import semconv
from torchelastic_otel.spool.reader import read_spool
from torchelastic_otel.testing.otlp_receiver import ReceivedRecord


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """One row of an agent's spool."""

    number: int
    name: str
    span: bool
    unprocessed: bool


@dataclass(frozen=True)
class Actual:
    """See the header of this file.

    Attributes:
        records: Log records of each agent, in the order of their numbers.
        spans: Spans of each agent, in the order of arrival.
        newest: The newest of each agent's metrics, by name.
        gauges: Every value that a gauge of an agent had, by name.
        rows: The rows of each agent's spool.
        runs: The timeline's runs, from the spools.
        runs_of_logs: The same from what the destination ``file`` wrote: log records alone.
        text: The timeline as a person reads it.
    """

    records: Mapping[str, list[ReceivedRecord]]
    spans: Mapping[str, list[ReceivedSpan]]
    newest: Mapping[str, dict[str, ReceivedMetric]]
    gauges: Mapping[str, dict[str, set[float]]]
    rows: Mapping[str, list[SpoolRow]]
    runs: list[dict[str, Any]]
    runs_of_logs: list[dict[str, Any]]
    text: str

    @staticmethod
    def of(cluster: Cluster, again: str) -> Actual:
        """What was reported once all agents have ended; what was flushed after an agent's end may be duplicated."""
        return collect(cluster, again)

    @property
    def all_spans(self) -> list[ReceivedSpan]:
        """The spans of all agents."""
        return [span for spans in self.spans.values() for span in spans]

    @property
    def all_records(self) -> list[ReceivedRecord]:
        """The records of all agents."""
        return [record for records in self.records.values() for record in records]


def flush(cluster: Cluster, name: str) -> None:
    """Deliver the orphaned spool of an agent."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TORCHELASTIC"))},
        **otlp(cluster.receiver),
        **cluster.environment(name),
        "TORCHELASTIC_OTEL_SPOOL_DIR": str(cluster.nodes[name].spools),
    }
    command = [sys.executable, "-m", "torchelastic_otel", "flush", "--timeout", "30"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def collect(cluster: Cluster, again: str) -> Actual:
    """What was reported once all agents have ended."""
    letters = {agent.pid: name for name, agent in cluster.nodes.items()}
    records: dict[str, list[ReceivedRecord]] = {name: [] for name in cluster.nodes}
    spans: dict[str, list[ReceivedSpan]] = {name: [] for name in cluster.nodes}
    newest: dict[str, dict[str, ReceivedMetric]] = {name: {} for name in cluster.nodes}
    gauges: dict[str, dict[str, set[float]]] = {name: {} for name in cluster.nodes}
    known: set[object] = set()
    for record in cluster.receiver.records:
        name = letters[record.resource[semconv.PROCESS_PID]]
        # a process that is killed while it sends cannot acknowledge: the batch is sent again
        if name not in again or record.uid not in known:
            records[name].append(record)
        known.add(record.uid)
    for span in cluster.receiver.spans:
        name = letters[span.resource[semconv.PROCESS_PID]]
        if name not in again or (span.trace_id, span.span_id) not in known:
            spans[name].append(span)
        known.add((span.trace_id, span.span_id))
    for metric in cluster.receiver.metrics:
        name = letters[metric.resource[semconv.PROCESS_PID]]
        newest[name][metric.name] = metric
        if metric.kind == "gauge":
            gauges[name].setdefault(metric.name, set()).update(point.value for point in metric.points)
    for of_agent in records.values():
        of_agent.sort(key=lambda record: int(record.uid.rpartition("-")[2]))
    paths = list(dict.fromkeys(agent.spools for agent in cluster.nodes.values()))
    runs = json.loads(timeline("--json", *paths) or '{"runs": []}')["runs"]
    files = sorted(cluster.directory.glob("otlp-*/*.jsonl"))
    logs = [path for path in files if ".traces." not in path.name and ".metrics." not in path.name]
    runs_of_logs = json.loads(timeline("--json", *logs) or '{"runs": []}')["runs"] if logs else []
    rows = {name: _rows(agent.pid, agent.spools) for name, agent in cluster.nodes.items()}
    return Actual(records, spans, newest, gauges, rows, runs, runs_of_logs, timeline("--utc", *paths))


def _rows(pid: int, spools: Path) -> list[SpoolRow]:
    found = []
    for path in spools.rglob("*"):
        if path.suffix in (".spool", ".delivered"):
            contents = read_spool(path)
            if json.loads(contents.meta["origin"])["pid"] == pid:
                for row in contents.rows:
                    span = row.destination == "spans"
                    name = "" if span or row.unprocessed else json.loads(row.payload)[0]
                    # a heartbeat after the last delivery
                    beat = row.unprocessed and is_beat(row.payload)
                    found.append(
                        SpoolRow(
                            row.sequence, semconv.RENDEZVOUS_KEEP_ALIVE_SENT if beat else name, span, row.unprocessed
                        )
                    )
    return found


def timeline(*arguments: str | Path) -> str:
    """What the command prints; empty if there is no run."""
    command = [sys.executable, "-m", "torchelastic_otel", "timeline", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout
