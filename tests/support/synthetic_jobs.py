"""The telemetry of a job of any size, as its agents would send it, by OTLP over HTTP as JSON; no job runs.

Metrics of the job are sent for one node only, as agents do; counters start at 0. A worker of every node fails at nearly
the same time, as when a collective operation breaks, and one of them is the first; later three nodes are lost at once;
at the end the first node fails again, and the job with it. All numbers on a dashboard differ, so that no two of them
can be confused.
"""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Mapping
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
DROPPED, SET_ASIDE, REFUSED = 4, 5, 7
"""Records that the node of the failure lost: by a full spool, at destination ``otlp``, and at ``backup``."""
LOST, JOINED, MISSING = 3, 2, 2
"""Nodes that were lost at once, that came in their place, and that the last rendezvous still needs."""
PHASES = {
    1: {"detect": 1.0, "stop": 1.0, "rendezvous": 20.0, "assign_ranks": 3.0, "start": 5.0},
    2: {"detect": 15.0, "stop": 2.0, "rendezvous": 21.0, "assign_ranks": 4.0, "start": 6.0},
}
"""Seconds of each phase of the restarts, by the round that they led to."""

Said = Mapping[str, Any]
Points = list[tuple[Said, float]]


@dataclass(frozen=True)
class SyntheticJob:
    """A job that failed, restarted twice and failed for good, ten minutes long, up to now.

    Attributes:
        nodes: How many.
        end_ns: When its last numbers were taken.
        run_id: Its run id.
        service: Its ``service.name``.
        resource: More attributes of each node's resource; ``{node}`` stands for its number.
    """

    nodes: int
    end_ns: int
    run_id: str = field(default_factory=lambda: f"synthetic-{uuid.uuid4().hex[:6]}")
    service: str = "torchrun"
    resource: Mapping[str, str] = field(default_factory=dict)

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

    @property
    def lost_ns(self) -> int:
        """When nodes were lost."""
        return self.end_ns - 150 * S

    @property
    def failed_again_ns(self) -> int:
        """When the first node's worker failed in the last round."""
        return self.end_ns - 10 * S

    @property
    def records(self) -> int:
        """How many log records it is."""
        return 4 * self.nodes + 6

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
            "service.name": self.service,
            "service.instance.id": f"{self.run_id}-{node}",
            "host.name": f"node-{node}",
            **{key: value.format(node=node) for key, value in self.resource.items()},
        }
        return {"resource": {"attributes": _attributes(said)}, scopes: [{"scope": {"name": "synthetic"}, items: of}]}

    # metrics

    def _metrics(self, node: int, part: float, at_ns: int) -> list[dict[str, Any]]:
        failed, lost, again = (int(at_ns > since) for since in (self.failed_ns, self.lost_ns, self.failed_again_ns))
        first = int(node == self.first)
        causes, victims = first * (failed + again), (1 - first) * failed * (node + 1)
        counters: dict[tuple[str, str], Points] = {
            ("agent.time", "s"): _times(part),
            ("worker.failures", "{failure}"): [(_role("cause"), causes), (_role("victim"), victims)],
            ("events", "{event}"): [({"torchelastic.event.name": "torchelastic.worker.started"}, 2 + failed)],
            ("keep_alive.sent", "{beat}"): [({}, 120 * part)],
            ("keep_alive.failed", "{beat}"): [({}, failed * (node + 1))],
            ("state.stale", "{conflict}"): [({}, 3 * part)],
            ("spool.dropped", "{event}"): [({}, first * failed * DROPPED)],
            ("export.failed", "{record}"): [({"torchelastic.export.destination": "otlp"}, first * failed * SET_ASIDE)],
            ("export.rejected", "{record}"): [({"torchelastic.export.destination": "backup"}, first * lost * REFUSED)],
        }
        gauges: dict[tuple[str, str], float] = {
            ("keep_alive.age", "s"): node + 1,
            ("spool.size", "By"): 100_000 + node,
            ("spool.age", "s"): node + 2,
        }
        if node == 0:
            counters |= {
                ("time", "s"): _times(part),
                ("restarts", "{restart}"): [(_reason("worker_failure"), failed), (_reason("node_lost"), lost)],
                ("membership.changes", "{node}"): [(_change("lost"), lost * LOST), (_change("joined"), lost * JOINED)],
            }
            gauges |= {
                ("rendezvous.round", "{round}"): failed + lost,
                ("group.world_size", "{node}"): self.nodes,
                ("rendezvous.participants", "{node}"): self.nodes,
                ("rendezvous.missing", "{node}"): lost * MISSING,
            }
        counted = [self._metric(*of, at_ns, points, counts=True) for of, points in counters.items()]
        return counted + [self._metric(*of, at_ns, [({}, value)], counts=False) for of, value in gauges.items()]

    def _metric(self, name: str, unit: str, at_ns: int, points: Points, *, counts: bool) -> dict[str, Any]:
        data = [
            {
                "attributes": _attributes({"torchelastic.run.id": self.run_id, **said}),
                "startTimeUnixNano": str(self.start_ns), "timeUnixNano": str(at_ns), "asDouble": float(value),
            }
            for said, value in points
        ]  # fmt: skip
        kind: dict[str, dict[str, Any]] = (
            {"sum": {"aggregationTemporality": 2, "isMonotonic": True}} if counts else {"gauge": {}}
        )
        next(iter(kind.values()))["dataPoints"] = data
        return {"name": f"torchelastic.{name}", "unit": unit, **kind}

    # log records

    def _records(self, node: int) -> list[dict[str, Any]]:
        late_ns = (node - self.first) % self.nodes * 1_000_000
        waiting = {"torchelastic.rendezvous.waited": 10.0, "torchelastic.rendezvous.missing": 1}
        outcome = "failed" if node == self.first else "succeeded"
        ended = {"torchelastic.phase": "ended", "torchelastic.agent.outcome": outcome}
        told = [
            self._failed(node, 0, self.failed_ns + late_ns),
            self._record("rendezvous.waiting", self.failed_ns + 10 * S + late_ns, "WARN", waiting),
            self._restarted(1, "worker_failure", self.failed_ns + late_ns, told_for_all=node == 0),
            self._record("agent.phase_entered", self.end_ns - S + late_ns // 10, "INFO", ended),
        ]
        if node == self.first:
            told.append(self._failed(node, 2, self.failed_again_ns))
        if node == 0:
            began = (self.start_ns + S, self.failed_ns + 30 * S, self.lost_ns + 48 * S)
            told += [
                self._record("round.started", at_ns, "INFO", {"torchelastic.rendezvous.round": round_})
                for round_, at_ns in enumerate(began)
            ]
            lost = {"torchelastic.rendezvous.round": 2, "torchelastic.membership.lost": LOST}
            told.append(self._record("membership.changed", self.lost_ns, "WARN", lost))
            told.append(self._restarted(2, "node_lost", self.lost_ns, told_for_all=True))
        return told

    def _failed(self, node: int, round_: int, at_ns: int) -> dict[str, Any]:
        said = {
            "torchelastic.rendezvous.round": round_, "torchelastic.worker.rank": 8 * node,
            "torchelastic.worker.local_rank": 0, "process.exit.code": 1, "exception.type": "DistBackendError",
            "exception.message": f"NCCL error on node {node}", "torchelastic.failure.role": "cause",
        }  # fmt: skip
        return self._record("worker.failed", at_ns, "ERROR", said)

    def _restarted(self, round_: int, reason: str, since_ns: int, *, told_for_all: bool) -> dict[str, Any]:
        took_s = sum(PHASES[round_].values())
        said = {
            "torchelastic.rendezvous.round": round_, "torchelastic.restart.reason": reason,
            "torchelastic.round.writer": told_for_all, "torchelastic.restart.duration": took_s,
            "torchelastic.restart.agreed": True,
            **{f"torchelastic.restart.{phase}.duration": seconds for phase, seconds in PHASES[round_].items()},
            "torchelastic.cause.host": f"node-{self.first}",
            "torchelastic.cause.rank": 8 * self.first, "torchelastic.cause.error_type": "DistBackendError",
            "torchelastic.cause.message": "NCCL error",
        }  # fmt: skip
        return self._record("restart.completed", since_ns + round(took_s * S), "WARN", said)

    def _record(self, name: str, at_ns: int, severity: str, said: Said) -> dict[str, Any]:
        return {
            "timeUnixNano": str(at_ns), "observedTimeUnixNano": str(at_ns), "severityText": severity,
            "eventName": f"torchelastic.{name}",
            "severityNumber": {"ERROR": 17, "WARN": 13, "INFO": 9}[severity],
            "body": {"stringValue": f"torchelastic.{name} told by a stand-in"},
            "attributes": _attributes({"torchelastic.run.id": self.run_id, **said}),
        }  # fmt: skip


def _times(part: float) -> Points:
    return [({"torchelastic.time.state": name}, all_of * part) for name, all_of in STATES.items()]


def _role(role: str) -> Said:
    return {"torchelastic.failure.kind": "exception", "torchelastic.failure.role": role}


def _reason(reason: str) -> Said:
    return {"torchelastic.restart.reason": reason}


def _change(change: str) -> Said:
    return {"torchelastic.membership.change": change}


def _attributes(said: Said) -> list[dict[str, Any]]:
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
