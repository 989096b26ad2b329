"""Metrics that waited: the quickstart's Prometheus takes what its window reaches, and refuses whole requests beyond it.

Its rules are off and it scrapes itself, so that it always has fresh data: how old a point may be it counts from its
newest sample, and not by the clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from tests.support import collector_tiers as tiers
from tests.support.backends import Collector, Programs, Prometheus, eventually
from tests.support.backends.prometheus import CONFIG
from tests.support.collector import LONGEST_S
from tests.support.otlp_senders import point, send_metrics

SEND_FAILED = "otelcol_exporter_send_failed_metric_points"
HOUR_S = 3600
HOUR_NS = HOUR_S * 1_000_000_000


@pytest.fixture(scope="module")
def prometheus(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """As it is shipped, but for rules and what it scrapes."""
    assert programs.prometheus
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(CONFIG.read_text())
    there = Prometheus(folder, folder / "prometheus.yaml")
    config["rule_files"] = []
    config["scrape_configs"] = [{"job_name": "self", "static_configs": [{"targets": [there.address]}]}]
    there.config.write_text(yaml.safe_dump(config))
    with there:
        eventually(lambda: there.query('up{job="self"} == 1'), LONGEST_S)
        yield there


@pytest.fixture
def gate(tmp_path: Path, prometheus: Prometheus, shared: tiers.Secrets) -> Iterator[Collector]:
    """gateway.yaml in front of it; logs and traces have nowhere to go, and none are sent."""
    nowhere = SimpleNamespace(port=9)
    ends = {"METRICS_ENDPOINT": prometheus.otlp}
    with tiers.gateway(tmp_path / "gateway", nowhere, shared, **ends) as there:  # type: ignore[arg-type]
        yield there


@pytest.fixture
def node(tmp_path: Path, gate: Collector, shared: tiers.Secrets) -> Iterator[Collector]:
    """agent.yaml in front of that."""
    with tiers.agent(tmp_path / "agent", tiers.nodes_of(gate), shared) as there:
        yield there


def window_h() -> int:
    """Hours that the shipped configuration takes points late."""
    said = yaml.safe_load(CONFIG.read_text())["storage"]["tsdb"]["out_of_order_time_window"]
    found = re.fullmatch(r"(\d+)h", said)
    assert found
    return int(found[1])


def aged(name: str, hours: float) -> Metric:
    """A gauge with one point, so many hours old."""
    made = point(name, 1.0)
    made.gauge.data_points[0].time_unix_nano -= int(hours * HOUR_NS)
    return made


def has(prometheus: Prometheus, name: str) -> bool:
    """Whether a series is there, with a point of any age that this file sends."""
    return bool(prometheus.query(f"count_over_time({name}[{2 * window_h()}h])"))


def test_points_within_the_window_come_and_older_ones_take_their_request_along(
    prometheus: Prometheus, node: Collector, gate: Collector
) -> None:
    """Both sides of the window, through both tiers: what is too old is lost, counted, and so is what comes with it."""
    send_metrics(node.otlp_grpc, [aged("late", window_h() - 1), aged("fresh", 0)])
    eventually(lambda: has(prometheus, "late") and has(prometheus, "fresh"), LONGEST_S)
    assert gate.metrics().get(SEND_FAILED, 0) == 0

    send_metrics(node.otlp_grpc, [aged("too_late", window_h() + 1), aged("its_neighbour", 0)])
    eventually(lambda: gate.metrics(exporter="otlp_http/metrics").get(SEND_FAILED) == 2, LONGEST_S)
    assert any("Permanent error" in line and "Status Code 400" in line for line in tiers.trouble(gate))
    # why, the Collector does not say, and Prometheus counts
    eventually(lambda: prometheus.query("sum(prometheus_tsdb_too_old_samples_total)")[0][1] >= 1, LONGEST_S)

    send_metrics(node.otlp_grpc, [aged("after_it", 0)])
    eventually(lambda: has(prometheus, "after_it"), LONGEST_S)
    assert not has(prometheus, "too_late")
    assert not has(prometheus, "its_neighbour")
    assert node.metrics().get(SEND_FAILED, 0) == 0


def test_the_documents_say_the_same_window() -> None:
    """Where it is not Prometheus' own file, somebody copies the number from here."""
    folder = CONFIG.parents[1]
    for path in (folder / "README.md", folder.parent / "docs" / "reference" / "backends.md"):
        said = set(re.findall(r"out_of_order_time_window: (\w+)", path.read_text()))
        assert said == {f"{window_h()}h"}, path
