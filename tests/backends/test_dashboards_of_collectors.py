"""What the dashboards say of the Collectors' own loss: a real Collector throws away what a test sends it, another one
nothing, and Prometheus scrapes both.

The expected loss comes from what was sent and from the receiver's answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.backends.expected_synthetic_answers import BY_COLLECTORS
from tests.support.backends import QUICKSTART, Collector, Programs, Prometheus, eventually
from tests.support.backends.prometheus import CONFIG
from tests.support.collector import OK, UNAUTHORIZED, GrpcCollector, HttpCollector
from tests.support.dashboard_answers import ALL, Chosen, View
from tests.support.dashboards import panels, read
from tests.support.otlp_senders import point, send_logs, send_metrics, send_spans, span

FAILED = "otelcol_exporter_send_failed_log_records"
SUMS = sorted({(name, title) for name, title, ref in BY_COLLECTORS if ref == "B"})
"""The panels that have one number for all Collectors."""
EACH = "What do Collectors throw away?"


@dataclass
class Tier:
    """Two Collectors in front of one backend, and the Prometheus that scrapes them each second.

    Attributes:
        broken: In cluster ``east.1``; loses what the backend refuses.
        whole: In no cluster; the backend refuses nothing of it.
        backends: Of logs and metrics, and of traces; both take everything until a test says otherwise.
        since_s: Before the first of all.
    """

    broken: Collector
    whole: Collector
    backends: tuple[HttpCollector, GrpcCollector]
    prometheus: Prometheus
    since_s: float

    def lose(self, logs: int, points: int = 0, spans: int = 0) -> None:
        """Send so much to one that the backends refuse for good, and wait until Prometheus has heard of it."""
        for backend in self.backends:
            backend.behaviour = UNAUTHORIZED
        send_logs(self.broken.otlp_grpc, [f"lost-{number}" for number in range(logs)])
        if points:
            send_metrics(self.broken.otlp_grpc, [point(f"lost_{number}", 1) for number in range(points)])
        if spans:
            send_spans(self.broken.otlp_grpc, [span(1, number + 1) for number in range(spans)])
        for what, count in (("log_records", logs), ("metric_points", points), ("spans", spans)):
            failed = f'otelcol_exporter_send_failed_{what}{{instance="{self.broken.telemetry}"}}'
            eventually(lambda of=failed, wanted=count: sum(self.told(of)) == wanted, deadline_s=60)

    def told(self, query: str) -> list[float]:
        """The numbers of a query's series, now."""
        return [value for _, value in self.prometheus.query(query)]

    def answer(self, name: str, title: str, since_s: float | None = None, cluster: Chosen = ALL) -> dict[str, float]:
        """What a panel says, of all the time or since then."""
        stack: Any = SimpleNamespace(prometheus=self.prometheus, victorialogs=None)
        chosen = {"cluster": cluster, "job": "torchrun", "run_id": "any", "host": ALL, "round": ALL}
        view = View(read(name), stack, chosen, self.since_s if since_s is None else since_s, time.time())
        (panel,) = [each for each in panels(view.board) if each["title"] == title]
        return dict(view.answers(panel))

    def scraped_for(self, count: int, since_s: float) -> None:
        """Wait for so many scrapes since then."""
        query = f'min(count_over_time(otelcol_process_uptime{{instance="{self.whole.telemetry}"}}[%ds]))'
        eventually(lambda: self.told(query % max(1, time.time() - since_s)) >= [count], deadline_s=60)


@pytest.fixture
def tier(tmp_path: Path, programs: Programs, backend: HttpCollector) -> Iterator[Tier]:
    """Both, and both scraped once."""
    since_s = time.time()
    prometheus = Prometheus(tmp_path / "prometheus", tmp_path / "prometheus" / "prometheus.yaml")
    with GrpcCollector() as traces:
        address = f"http://127.0.0.1:{backend.port}"
        env = {"LOGS_ENDPOINT": address, "METRICS_ENDPOINT": address, "TRACES_ENDPOINT": f"127.0.0.1:{traces.port}"}
        broken, whole = (Collector(QUICKSTART, tmp_path / name, env=env) for name in ("broken", "whole"))
        there = Tier(broken, whole, (backend, traces), prometheus, since_s)
        config = yaml.safe_load(CONFIG.read_text()) | {"rule_files": []}
        config["global"]["scrape_interval"] = "1s"
        (job,) = config["scrape_configs"]
        east = {"targets": [broken.telemetry], "labels": {"cluster": "east.1"}}
        job["static_configs"] = [{"targets": [whole.telemetry]}, east]
        prometheus.config.write_text(yaml.safe_dump(config))
        servers = (broken, whole, prometheus)
        try:
            for server in servers:
                server.start()
            eventually(lambda: len(there.told("otelcol_process_uptime")) == 2, deadline_s=60)
            yield there
        finally:
            for server in servers:
                server.kill()


def test_what_a_collector_throws_away_is_told_with_its_destination(tier: Tier) -> None:
    """Agents think it delivered: the Collector had said yes, and the backend said 401."""
    send_logs(tier.whole.otlp_grpc, ["kept-1", "kept-2"])
    assert tier.backends[0].wait_for(2)
    for name, title in SUMS:
        assert tier.answer(name, title) == {"Collectors": 0}
    assert tier.answer("fleet", EACH) == {}
    tier.lose(7, 5, 4)
    for name, title in SUMS:
        assert tier.answer(name, title) == {"Collectors": 16}
    broken = tier.broken.telemetry
    assert tier.answer("fleet", EACH) == {
        f"{broken} to otlp_http/logs: log_records": 7,
        f"{broken} to otlp_http/metrics: metric_points": 5,
        f"{broken} to otlp_grpc/traces: spans": 4,
    }


def test_what_was_lost_before_the_window_is_not_in_it(tier: Tier) -> None:
    """A Collector's counter is as old as its process; a first value is loss only where it is new."""
    tier.lose(7)
    since_s = time.time() + 1
    tier.scraped_for(3, since_s)
    for name, title in SUMS:
        assert tier.answer(name, title, since_s) == {"Collectors": 0}
    assert tier.answer("fleet", EACH, since_s) == {}
    assert tier.answer(*SUMS[0]) == {"Collectors": 7}


def test_a_collector_that_began_anew_is_told_about(tier: Tier) -> None:
    """Its counters begin anew, and with less than it had lost before: no negative numbers, and none is forgotten."""
    tier.lose(7)
    since_s = time.time() + 1
    tier.scraped_for(3, since_s)
    for backend in tier.backends:
        backend.behaviour = OK
    tier.broken.restart()
    tier.lose(2)
    tier.scraped_for(12, since_s)
    for name, title in SUMS:
        assert 2 <= tier.answer(name, title, since_s)["Collectors"] < 4
        assert 4 <= tier.answer(name, title)["Collectors"] <= 9, "at least what is seen of both"


def test_a_collector_without_a_cluster_is_in_any(tier: Tier) -> None:
    """Nobody says the cluster of what Prometheus scrapes: a chosen cluster must not hide such a Collector's loss."""
    tier.lose(3)
    (name, title), other = SUMS[0], "west"
    assert tier.answer(name, title, cluster=other) == {"Collectors": 0}, "of the one without a cluster"
    assert tier.answer(name, title, cluster=[other, "east.1"]) == {"Collectors": 3}
    assert tier.answer(name, title, cluster="eastX1") == {"Collectors": 0}


def test_a_collector_that_pushes_its_numbers_is_told_as_one_that_is_scraped(
    tmp_path: Path, programs: Programs, backend: HttpCollector
) -> None:
    """By OTLP the same counters have other names: with units, and with _total."""
    since_s = time.time()
    prometheus = Prometheus(tmp_path / "prometheus", tmp_path / "prometheus" / "prometheus.yaml")
    config = yaml.safe_load(CONFIG.read_text()) | {"rule_files": [], "scrape_configs": []}
    prometheus.config.write_text(yaml.safe_dump(config))
    address = f"http://127.0.0.1:{backend.port}"
    collector = Collector(QUICKSTART, tmp_path / "collector", env={"LOGS_ENDPOINT": address})
    there = Tier(collector, collector, (backend, GrpcCollector()), prometheus, since_s)
    push = {"otlp": {"protocol": "http/protobuf", "endpoint": f"{prometheus.otlp}/v1/metrics"}}
    host, _, port = collector.telemetry.partition(":")
    pull = {"pull": {"exporter": {"prometheus": {"host": host, "port": int(port)}}}}
    readers = [pull, {"periodic": {"interval": 1000, "exporter": push}}]
    collector.overrides = {"service": {"telemetry": {"metrics": {"readers": readers}}}}
    try:
        prometheus.start()
        collector.start()
        eventually(lambda: there.told("otelcol_process_uptime_seconds_total"), deadline_s=60)
        for name, title in SUMS:
            assert there.answer(name, title) == {"Collectors": 0}
        backend.behaviour = UNAUTHORIZED
        send_logs(collector.otlp_grpc, ["one", "two", "three"])
        eventually(lambda: there.told(f"{FAILED}_total") == [3], deadline_s=60)
        for name, title in SUMS:
            assert there.answer(name, title) == {"Collectors": 3}
        (said,) = there.answer("fleet", EACH)
        assert said.endswith(" to otlp_http/logs: log_records")
    finally:
        collector.kill()
        prometheus.kill()


def test_without_a_word_of_collectors_nobody_says_that_they_lose_nothing(tier: Tier) -> None:
    """Where nobody scrapes them there is no number, and no green 0."""
    before_s = tier.since_s - 3600
    stack: Any = SimpleNamespace(prometheus=tier.prometheus, victorialogs=None)
    chosen = {"cluster": ALL, "job": "torchrun", "run_id": "any", "host": ALL, "round": ALL}
    for name, title in SUMS:
        view = View(read(name), stack, chosen, before_s - 60, before_s)
        (panel,) = [each for each in panels(view.board) if each["title"] == title]
        assert view.answers(panel) == {}
