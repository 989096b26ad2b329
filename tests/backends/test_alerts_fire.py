"""Alerts on real jobs in a real Prometheus, vmalert and Loki's ruler: the shipped rules, with seconds for minutes.

Agents export each second, through a Collector on the quickstart's configuration, to backends of these tests;
Prometheus looks back 10 s instead of 5 minutes, so that a dead agent's series end soon. Loki's rules are evaluated if
a Loki is on PATH.
"""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.backends.conftest import NO_LOKI
from tests.backends.jobs import Nodes, stage_of
from tests.live.harness import Agents
from tests.live.scenarios.scripts import FAST
from tests.support.alert_rules import LOKI, VICTORIALOGS, alerts_of, faster, faster_on_logs
from tests.support.backends import (
    QUICKSTART,
    Collector,
    Loki,
    Programs,
    Prometheus,
    VictoriaLogs,
    VmAlert,
    eventually,
    find_loki,
    http,
)
from tests.support.backends.loki import CONFIG as LOKI_CONFIG
from tests.support.backends.prometheus import CONFIG as PROMETHEUS_CONFIG
from tests.support.backends.stack import also_to_loki
from tests.support.otlp_senders import send_logs
from tests.support.ports import free_port

STUCK, NAMED, LOST = "TorchelasticRendezvousStuck", "TorchelasticRendezvousStuckFor", "TorchelasticNodeKeepsBeingLost"
FAILED, DOWN, LOSING = "TorchelasticJobFailed", "TorchelasticJobDown", "TorchelasticCollectorLosing"
COLLECTOR_DOWN = "TorchelasticCollectorDown"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def prometheus(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the shipped rules, faster; what it scrapes is said by ``targets.json`` in its folder."""
    assert programs.prometheus
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    config["global"] = {"evaluation_interval": "1s", "scrape_interval": "1s"}
    config["rule_files"] = [str(path) for path in faster(folder, {"3m": "8s", "1h:1m": "1h:1s"})]
    config["scrape_configs"] = [{"job_name": "otelcol", "file_sd_configs": [{"files": ["targets.json"]}]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "targets.json").write_text("[]")
    with Prometheus(folder, folder / "prometheus.yaml", args=["--query.lookback-delta=10s"]) as running:
        yield running


@pytest.fixture(scope="module")
def victorialogs(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaLogs]:
    """The quickstart's."""
    assert programs.victorialogs
    with VictoriaLogs(tmp_path_factory.mktemp("victorialogs")) as running:
        yield running


@pytest.fixture(scope="module")
def vmalert(victorialogs: VictoriaLogs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmAlert]:
    """With the shipped rules on log records, faster."""
    folder = tmp_path_factory.mktemp("vmalert")
    with VmAlert(folder, faster_on_logs(VICTORIALOGS, folder / "rules"), victorialogs.url) as running:
        yield running


@pytest.fixture(scope="module")
def own_loki(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki | None]:
    """The quickstart's, with a ruler that has the shipped rules, faster; if there is one on PATH."""
    assert programs
    if not find_loki():
        yield None
        return
    folder = tmp_path_factory.mktemp("loki")
    config = yaml.safe_load(LOKI_CONFIG.read_text())
    config["ruler"] = {
        "storage": {"type": "local", "local": {"directory": str(folder / "rules")}},
        "rule_path": str(folder / "scratch"),
        "ring": {"kvstore": {"store": "inmemory"}},
        "enable_api": True,
        "evaluation_interval": "1s",
        "poll_interval": "1s",
    }
    (folder / "loki.yaml").write_text(yaml.safe_dump(config))
    faster_on_logs(LOKI, folder / "rules" / "fake")
    with Loki(folder, folder / "loki.yaml") as running:
        yield running


@pytest.fixture(scope="module")
def collector(
    prometheus: Prometheus, victorialogs: VictoriaLogs, own_loki: Loki | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Collector]:  # fmt: skip
    """In front of them; no backend receives its traces."""
    env = {
        "LOGS_ENDPOINT": victorialogs.otlp,
        "METRICS_ENDPOINT": prometheus.otlp,
        "TRACES_ENDPOINT": f"127.0.0.1:{free_port()}",
        "CLUSTER_NAME": "prod",
    }
    overrides = also_to_loki(own_loki) if own_loki else None
    with Collector(QUICKSTART, tmp_path_factory.mktemp("collector"), env=env, overrides=overrides) as running:
        yield running


@dataclass(frozen=True)
class LogAlerts:
    """What evaluates the alerts on log records: vmalert, or Loki's ruler.

    Attributes:
        alerts: All alerts, pending and firing.
        lost: The hosts that TorchelasticNodeKeepsBeingLost would name after one loss in place of three.
    """

    alerts: Callable[[], list[dict[str, Any]]]
    lost: Callable[[], list[str]]

    def missing(self, run_id: str) -> list[dict[str, Any]]:
        """The alerts that name the missing nodes of a run."""
        mine = [each for each in self.alerts() if each["labels"].get("torchelastic_run_id") == run_id]
        return [each for each in mine if each["labels"]["alertname"] == NAMED and each["state"] == "firing"]


@pytest.fixture(params=["vmalert", "loki"])
def log_alerts(
    request: pytest.FixtureRequest, vmalert: VmAlert, victorialogs: VictoriaLogs, own_loki: Loki | None
) -> LogAlerts:
    """Each of them in turn."""
    if request.param == "vmalert":
        query = alerts_of(VICTORIALOGS)[LOST]["expr"].replace(">=3", ">=1")
        return LogAlerts(
            vmalert.alerts, lambda: [labels["torchelastic_cause_host"] for labels, _ in victorialogs.stats(query)]
        )
    if own_loki is None:
        pytest.skip(NO_LOKI)
    query = alerts_of(LOKI)[LOST]["expr"].replace(">= 3", ">= 1")
    return LogAlerts(
        lambda: list(http.get_json(f"{own_loki.url}/prometheus/api/v1/alerts")["data"]["alerts"]),
        lambda: [labels["torchelastic_cause_host"] for labels, _ in own_loki.instant(query)],
    )


@pytest.fixture
def cluster(collector: Collector, tmp_path: Path) -> Iterator[Nodes]:
    """Nodes of jobs, and nothing is left of them."""
    with Agents(tmp_path) as agents:
        yield stage_of(agents, tmp_path, collector)


def firing(prometheus: Prometheus, alert: str, run_id: str) -> dict[str, Any] | None:
    """The alert of that run, if it fires."""
    for each in prometheus.alerts():
        labels = each["labels"]
        if (each["state"], labels["alertname"], labels.get("torchelastic_run_id")) == ("firing", alert, run_id):
            return each
    return None


def a_run_id(name: str) -> str:
    """One that no other test has."""
    return f"{name}-{uuid.uuid4().hex[:6]}"


def fires(prometheus: Prometheus, alert: str, run_id: str, words: str = "") -> dict[str, Any]:
    """Wait for it, in these words."""

    def asked() -> dict[str, Any] | None:
        found = firing(prometheus, alert, run_id)
        return found if found and words in found["annotations"]["summary"] else None

    found = eventually(asked, WAIT_S)
    assert found
    return found


def evaluated(prometheus: Prometheus, times: int) -> None:
    """Wait until all alerts on jobs were evaluated so often from now on."""

    def last() -> str:
        (group,) = [
            group
            for group in http.get_json(f"{prometheus.url}/api/v1/rules")["data"]["groups"]
            if group["name"] == "torchelastic-jobs"
        ]
        return str(group["lastEvaluation"])

    for _ in range(times):
        before = last()
        assert eventually(lambda before=before: last() != before, WAIT_S)  # type: ignore[misc]


def clears(prometheus: Prometheus, alert: str, run_id: str) -> None:
    """Wait until it fires no more."""
    eventually(lambda: firing(prometheus, alert, run_id) is None, WAIT_S)


def test_a_stuck_rendezvous_calls_somebody_until_the_missing_node_has_come(
    prometheus: Prometheus, log_alerts: LogAlerts, cluster: Nodes
) -> None:
    """Twice: before the first round, and after a node was lost, whose name is in the log records."""
    run_id = a_run_id("stuck")

    def enter(name: str) -> None:
        cluster.start_agent(name, nnodes="2", conf=FAST, restarts=2, run_id=run_id)

    enter("a")
    alert = fires(prometheus, STUCK, run_id, "1 came, 1 missing")
    assert alert["labels"]["severity"] == "critical"
    assert alert["labels"]["cluster"] == "prod"
    assert run_id in alert["annotations"]["summary"]

    enter("b")
    (worker,) = cluster.wait_for_workers("a")
    cluster.wait_for_workers("b")
    clears(prometheus, STUCK, run_id)

    cluster.signal_agent("b", signal.SIGKILL)
    cluster.command(worker, "exit 3")
    fires(prometheus, STUCK, run_id, "1 came, 1 missing")
    lost = f"127.0.0.1, last rank {worker.group_rank ^ 1} (127.0.0.1_{cluster.nodes['b'].pid}_0)"

    def named() -> list[dict[str, Any]]:
        # its first word may come before the lost node was removed, and then names nobody
        return [
            each
            for each in log_alerts.missing(run_id)
            if lost in each["labels"].get("torchelastic_rendezvous_missing_nodes", "")
        ]

    # the longer it waits the more rarely it says so
    (alert,) = eventually(named, 2 * WAIT_S)
    assert alert["labels"]["torchelastic_rendezvous_missing"] == "1"
    assert lost in alert["annotations"]["summary"]

    enter("c")
    cluster.wait_for_workers("a", 1)
    cluster.wait_for_workers("c")
    clears(prometheus, STUCK, run_id)
    eventually(lambda: not log_alerts.missing(run_id), WAIT_S)
    assert eventually(log_alerts.lost, WAIT_S) == ["127.0.0.1"]
    cluster.finish()
    assert {name: status for name, status in cluster.exit_statuses().items() if name != "b"} == {"a": 0, "c": 0}
    # the run ended well, and one of its nodes never said so
    seen = eventually(
        lambda: prometheus.query(f'torchelastic_run:agents_alive:count{{torchelastic_run_id="{run_id}"}}') == [], WAIT_S
    )
    assert seen
    assert firing(prometheus, FAILED, run_id) is None
    assert firing(prometheus, DOWN, run_id) is None


def test_a_job_that_died_is_told_from_one_that_ended(prometheus: Prometheus, cluster: Nodes) -> None:
    """Four ends of real jobs: well, failed, cancelled, killed; one alert each for the second and the last."""
    runs = dict(zip("abcd", map(a_run_id, ("fine", "failed", "cancelled", "killed")), strict=True))
    for name, run_id in runs.items():
        cluster.start_agent(name, nnodes="1", conf="is_host=1", run_id=run_id, port=free_port())
    workers = {name: cluster.wait_for_workers(name)[0] for name in runs}
    for run_id in runs.values():
        ran = f'torchelastic_agent:ran_seconds:max1h{{torchelastic_run_id="{run_id}"}} > 0'
        eventually(lambda ran=ran: prometheus.query(ran), WAIT_S)  # type: ignore[misc]
    cluster.command(workers["b"], "exit 3")
    cluster.nodes["c"].wait_until_monitoring()
    cluster.signal_agent("c", signal.SIGTERM)
    cluster.signal_agent("d", signal.SIGKILL)
    cluster.finish()
    statuses = cluster.exit_statuses()
    assert statuses["a"] == 0
    assert statuses["b"] != 0
    fires(prometheus, FAILED, runs["b"])
    fires(prometheus, DOWN, runs["d"])
    told = {(each["labels"]["alertname"], each["labels"].get("torchelastic_run_id")) for each in prometheus.alerts()}
    assert {each for each in told if each[1] in runs.values()} == {(FAILED, runs["b"]), (DOWN, runs["d"])}


def test_an_attempt_that_failed_is_forgotten_when_the_next_one_ends_well(
    prometheus: Prometheus, cluster: Nodes
) -> None:
    """A container that is started again under its run id: whoever is called is called before it, and not after it."""
    run_id = a_run_id("again")
    cluster.start_agent("a", nnodes="1", conf="is_host=1", run_id=run_id, port=free_port())
    (worker,) = cluster.wait_for_workers("a")
    ran = f'torchelastic_agent:ran_seconds:max1h{{torchelastic_run_id="{run_id}"}} > 0'
    eventually(lambda: prometheus.query(ran), WAIT_S)
    cluster.command(worker, "exit 3")
    assert cluster.nodes["a"].wait() != 0
    fires(prometheus, FAILED, run_id)

    cluster.start_agent("b", nnodes="1", conf="is_host=1", run_id=run_id, port=free_port())
    cluster.wait_for_workers("b")
    eventually(lambda: len(prometheus.query(ran)) == 2, WAIT_S)
    clears(prometheus, FAILED, run_id)
    cluster.finish()
    assert cluster.nodes["b"].wait() == 0
    # the rules have seen its end, and that of the first attempt is still within their hour
    ended = f'torchelastic_agent:ended:max1h{{torchelastic_run_id="{run_id}"}} > 0'
    eventually(lambda: len(prometheus.query(ended)) == 2, WAIT_S)
    alive = f'torchelastic_run:agents_alive:count{{torchelastic_run_id="{run_id}"}}'
    eventually(lambda: prometheus.query(alive) == [], WAIT_S)
    evaluated(prometheus, 3)
    assert firing(prometheus, FAILED, run_id) is None
    assert firing(prometheus, DOWN, run_id) is None


def test_a_collector_that_loses_logs_is_told_of_and_one_that_is_gone(prometheus: Prometheus, tmp_path: Path) -> None:
    """By the Collector's own counter, whose first value is already the loss: a backend that refuses for good."""
    env = {"LOGS_ENDPOINT": f"{prometheus.url}/nothing", "METRICS_ENDPOINT": prometheus.otlp}

    def told_of(alert: str) -> list[dict[str, Any]]:
        firing_now = [each for each in prometheus.alerts() if each["state"] == "firing"]
        return [each for each in firing_now if each["labels"]["alertname"] == alert]

    with Collector(QUICKSTART, tmp_path, env=env) as collector:
        targets = prometheus.folder / "targets.json"
        targets.with_suffix(".new").write_text(json.dumps([{"targets": [collector.telemetry]}]))
        targets.with_suffix(".new").rename(targets)
        eventually(lambda: prometheus.query(f'up{{instance="{collector.telemetry}"}} == 1'), WAIT_S)
        assert not told_of(LOSING) + told_of(COLLECTOR_DOWN)
        send_logs(collector.otlp_grpc, ["lost-1", "lost-2"])
        (losing,) = eventually(lambda: told_of(LOSING), WAIT_S)
    assert losing["labels"]["exporter"] == "otlp_http/logs"
    assert losing["labels"]["lost"] == "log_records"
    assert losing["labels"]["severity"] == "warning"
    assert float(losing["value"]) == 2
    # and it is gone now, and still a target
    (down,) = eventually(lambda: told_of(COLLECTOR_DOWN), WAIT_S)
    assert down["labels"]["instance"] == collector.telemetry
