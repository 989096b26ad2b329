"""The telemetry of a job of any size, as its agents would send it, by OTLP over HTTP as JSON; no job runs.

What always holds: what is the job's is sent for one node alone, as agents do; counters begin with 0; a worker of every
node fails at nearly the same moment, as when a collective breaks down, and one of them is the first.
"""

from __future__ import annotations

import json
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

S = 1_000_000_000
STATES = {
    "running": 540.0,
    "rendezvous": 40.0,
    "starting": 15.0,
    "detecting": 3.0,
    "stopping": 2.0,
    "exit_barrier": 0.0,
}
"""Where each node's ten minutes went."""
AT_ONCE = 100
"""Nodes in one request."""


@dataclass(frozen=True)
class SyntheticJob:
    """A job that failed once, ten minutes long, up to now.

    Attributes:
        nodes: How many.
        end_ns: When its last numbers were taken.
        run_id: Its run id.
        first: The node of the failure.
    """

    nodes: int
    end_ns: int
    run_id: str = field(default_factory=lambda: f"synthetic-{uuid.uuid4().hex[:6]}")

    @property
    def first(self) -> int:
        """The node whose worker failed first."""
        return self.nodes * 2 // 3

    @property
    def start_ns(self) -> int:
        """When it began."""
        return self.end_ns - 600 * S

    @property
    def failed_ns(self) -> int:
        """When the first worker failed."""
        return self.end_ns - 300 * S

    def send(self, endpoint: str) -> None:
        """Send all of it to a Collector's OTLP endpoint (HTTP); returns when it was taken."""
        for low in range(0, self.nodes, AT_ONCE):
            nodes = range(low, min(low + AT_ONCE, self.nodes))
            logs = [self._resource(node, "scopeLogs", "logRecords", self._records(node)) for node in nodes]
            _post(f"{endpoint}/v1/logs", {"resourceLogs": logs})
            for step in range(11):  # one sample a minute
                at_ns = self.start_ns + step * 60 * S
                metrics = [
                    self._resource(node, "scopeMetrics", "metrics", self._metrics(node, step / 10, at_ns))
                    for node in nodes
                ]
                _post(f"{endpoint}/v1/metrics", {"resourceMetrics": metrics})

    def _resource(self, node: int, scopes: str, items: str, of: list[dict[str, Any]]) -> dict[str, Any]:
        said = {
            "service.name": "torchrun",
            "service.instance.id": f"{self.run_id}-{node}",
            "host.name": f"node-{node}",
        }
        return {"resource": {"attributes": _attributes(said)}, scopes: [{"scope": {"name": "synthetic"}, items: of}]}

    def _metrics(self, node: int, part: float, at_ns: int) -> list[dict[str, Any]]:
        after = 1 if at_ns > self.failed_ns else 0
        first = 1 if node == self.first else 0
        told: list[tuple[str, str, bool, list[tuple[dict[str, str], float]]]] = [
            (
                "agent.time",
                "s",
                True,
                [({"torchelastic.time.state": name}, all_of * part) for name, all_of in STATES.items()],
            ),
            (
                "worker.failures",
                "{failure}",
                True,
                [(_role("cause"), first * after), (_role("victim"), (1 - first) * after)],
            ),
            ("events", "{event}", True, [({"torchelastic.event.name": "torchelastic.worker.started"}, 2.0 + after)]),
            ("keep_alive.sent", "{beat}", True, [({}, 120 * part)]),
            ("keep_alive.failed", "{beat}", True, [({}, after)]),
            ("keep_alive.age", "s", False, [({}, node % 7)]),
            ("state.stale", "{conflict}", True, [({}, 3 * part)]),
            ("spool.size", "By", False, [({}, 100_000 + node)]),
            ("spool.age", "s", False, [({}, node % 3)]),
            ("spool.dropped", "{event}", True, [({}, 0)]),
        ]
        if node == 0:
            told += [
                (
                    "time",
                    "s",
                    True,
                    [({"torchelastic.time.state": name}, all_of * part) for name, all_of in STATES.items()],
                ),
                ("restarts", "{restart}", True, [({"torchelastic.restart.reason": "worker_failure"}, after)]),
                ("rendezvous.round", "{round}", False, [({}, after)]),
                ("group.world_size", "{node}", False, [({}, self.nodes)]),
                ("rendezvous.participants", "{node}", False, [({}, self.nodes)]),
                ("rendezvous.missing", "{node}", False, [({}, 0)]),
            ]
        return [self._metric(name, unit, counts, points, at_ns) for name, unit, counts, points in told]

    def _metric(
        self, name: str, unit: str, counts: bool, points: list[tuple[dict[str, str], float]], at_ns: int
    ) -> dict[str, Any]:
        data = [
            {
                "attributes": _attributes({"torchelastic.run.id": self.run_id, **said}),
                "startTimeUnixNano": str(self.start_ns), "timeUnixNano": str(at_ns), "asDouble": value,
            }
            for said, value in points
        ]  # fmt: skip
        kind = {"sum": {"aggregationTemporality": 2, "isMonotonic": True}} if counts else {"gauge": {}}
        next(iter(kind.values()))["dataPoints"] = data
        return {"name": f"torchelastic.{name}", "unit": unit, **kind}

    def _records(self, node: int) -> list[dict[str, Any]]:
        late_ns = (node - self.first) % self.nodes * 1_000_000
        failure = {
            "torchelastic.rendezvous.round": 0, "torchelastic.worker.rank": 8 * node,
            "torchelastic.worker.local_rank": 0,
            "process.exit.code": 1, "exception.type": "DistBackendError",
            "exception.message": f"NCCL error on node {node}",
            "torchelastic.failure.role": "cause",
        }  # fmt: skip
        restart = {
            "torchelastic.rendezvous.round": 1, "torchelastic.restart.reason": "worker_failure",
            "torchelastic.round.writer": node == 0, "torchelastic.restart.duration": 30.0,
            "torchelastic.restart.agreed": True,
            "torchelastic.restart.detect.duration": 1.0, "torchelastic.restart.stop.duration": 1.0,
            "torchelastic.restart.rendezvous.duration": 20.0, "torchelastic.restart.assign_ranks.duration": 3.0,
            "torchelastic.restart.start.duration": 5.0, "torchelastic.cause.host": f"node-{self.first}",
            "torchelastic.cause.rank": 8 * self.first, "torchelastic.cause.error_type": "DistBackendError",
            "torchelastic.cause.message": "NCCL error",
        }  # fmt: skip
        waiting = {"torchelastic.rendezvous.waited": 10.0, "torchelastic.rendezvous.missing": 1}
        return [
            self._record("torchelastic.worker.failed", self.failed_ns + late_ns, "ERROR", failure),
            self._record("torchelastic.rendezvous.waiting", self.failed_ns + 10 * S + late_ns, "WARN", waiting),
            self._record("torchelastic.restart.completed", self.failed_ns + 30 * S + late_ns, "WARN", restart),
        ]

    def _record(self, name: str, at_ns: int, severity: str, said: dict[str, Any]) -> dict[str, Any]:
        return {
            "timeUnixNano": str(at_ns), "observedTimeUnixNano": str(at_ns), "severityText": severity,
            "eventName": name,
            "severityNumber": {"ERROR": 17, "WARN": 13}[severity],
            "body": {"stringValue": f"{name} told by a stand-in"},
            "attributes": _attributes({"torchelastic.run.id": self.run_id, **said}),
        }  # fmt: skip


def _role(role: str) -> dict[str, str]:
    return {"torchelastic.failure.kind": "exception", "torchelastic.failure.role": role}


def _attributes(said: dict[str, Any]) -> list[dict[str, Any]]:
    def value(of: Any) -> dict[str, Any]:
        if isinstance(of, bool):
            return {"boolValue": of}
        if isinstance(of, int):
            return {"intValue": str(of)}
        return {"doubleValue": of} if isinstance(of, float) else {"stringValue": of}

    return [{"key": key, "value": value(of)} for key, of in said.items()]


def _post(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
