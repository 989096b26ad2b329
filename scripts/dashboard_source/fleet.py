"""The dashboard of all jobs: which of them lose time, on which hosts, and whether the telemetry is complete.

No query returns more than twenty rows or a fixed set of states, for any number of jobs and hosts.
"""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as d

from dashboard_source import panels, tables
from dashboard_source.job import UID as JOB_UID
from dashboard_source.log_queries import LANGUAGES, LogQueries
from dashboard_source.metric_queries import (
    BEATS_FAILED,
    BEATS_SENT,
    BY_RUN,
    DESTINATION,
    FAILURES,
    HOST,
    JOB_TIME,
    MISSING,
    NODE,
    NODE_TIME,
    ONE_HOST,
    REASON,
    REJECTED,
    RESTARTS,
    RUN,
    RUNS,
    SET_ASIDE,
    SPOOL_AGE,
    SPOOL_SIZE,
    STALE,
    STATE,
    WORLD_SIZE,
    all_lost_by_collectors,
    by_node,
    grown,
    grown_each_step,
    label,
    lost_by_agents,
    lost_by_collectors,
    now,
    of_the_round,
    over_time,
    rows,
    series,
    together,
)
from dashboard_source.variables import cluster, data_sources, host, job, runs
from torchelastic_otel import semconv

UID = "torchelastic-fleet"
RUNNING = f'{STATE}="running"'
NOT_RUNNING = f'{STATE}!="running"'
CAUSES, VICTIMS = (f'{label(semconv.FAILURE_ROLE)}="{role}"' for role in ("cause", "victim"))
NODE_LOST = f'{REASON}="node_lost"'
MOST = 20
"""Rows of a table."""


def build(log_store: str, traces: str = "jaeger") -> d.Dashboard:
    """The dashboard; ``log_store`` is loki or victorialogs, ``traces`` jaeger or tempo."""
    logs = LANGUAGES[log_store]
    board = (
        dashboard.Dashboard("Torchelastic: all jobs")
        .uid(UID)
        .description(
            "All torchrun jobs: which of them lose time, on which hosts, and is the telemetry itself complete?"
        )
        .tags(["torchelastic", "pytorch", "opentelemetry"])
        .time("now-24h", "now")
        .refresh("5m")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .link(panels.link_to("One job", f"/d/{JOB_UID}/", logs))
    )
    for variable in (*data_sources(logs, traces), cluster(), job(), runs(), host(RUNS)):
        board = board.with_variable(variable)
    for title, row in (
        ("How much is lost, and where?", (*_at_a_glance(), *_tables(logs))),
        ("What keeps jobs from running?", _course()),
        ("Which rendezvous and stores have trouble?", _rendezvous()),
        ("Can the telemetry be trusted?", _telemetry()),
    ):
        board = board.with_row(dashboard.Row(title))
        for panel in row:
            board = board.with_panel(panel)
    return panels.numbered(board.build())


def _at_a_glance():
    running_now = f"sum by ({BY_RUN}) (irate({series(NODE_TIME, RUNS, RUNNING)}[3m])) > 0"
    # as torchelastic_run:failures:increase1d counts them (rules/recording.yaml)
    ended = {"worker": grown(FAILURES, RUNS, CAUSES), "node": grown(RESTARTS, RUNS, NODE_LOST)}
    failures = f"sum({together('failed', ended)})"
    return (
        panels.number(
            "How many jobs run now?",
            "Runs with worker processes on at least one node in the last minutes. Fewer than the scheduler"
            " reports: sort the table below by lost node-hours.",
            [now(f"count({running_now}) or vector(0)")],
            unit="none", nothing="0", width=4, decimals=0,
        ),
        panels.number(
            "How much could jobs train?",
            "Effective training time, an upper bound, of all jobs, each weighted by its wall time. Low: start"
            " with the first rows of the table below.",
            [now(f"sum({grown(JOB_TIME, RUNS, RUNNING)}) / (sum({grown(JOB_TIME, RUNS)}) > 0)")],
            unit="percentunit", nothing="no job", width=4, decimals=1, steps=panels.SHARE_OF_TIME,
        ),
        panels.number(
            "How many node-hours are lost?",
            "The time of all nodes in which their workers did not run. Multiply by the cost of a node.",
            [now(f"sum({grown(NODE_TIME, RUNS, NOT_RUNNING)}) / 3600")],
            unit="suffix: h", nothing="no job", width=4,
        ),
        panels.number(
            "How often did jobs restart?",
            "Restarts of all jobs in the time range. A sudden increase: see which jobs, and for which reason.",
            [now(f"sum({grown(RESTARTS, RUNS)})")],
            unit="none", nothing="no job", width=4, decimals=0,
        ),
        panels.number(
            "What is mean time to failure?",
            "Time with running workers per failure (a worker that was a cause, or nodes lost at the same time):"
            " of a job, and of a node. Set the checkpoint interval by the job's value; compare the node's value"
            " with the supplier's specification.",
            [
                now(f"sum({grown(JOB_TIME, RUNS, RUNNING)}) / ({failures} > 0)", "a job"),
                now(f"sum({grown(NODE_TIME, RUNS, RUNNING)}) / ({failures} > 0)", "a node", "B"),
            ],
            unit="s", nothing="no failure", width=4, decimals=1, named=True,
        ),
        panels.number(
            "Does telemetry lose anything?",
            "Records that agents lost (dropped by full spools, not deliverable, rejected), and records that"
            " Collectors discarded. Above 0: the last row has the details. Without a value for Collectors, nothing"
            " scrapes their metrics, and their loss is unknown.",
            [now(f"sum({lost_by_agents(RUNS)})", "agents"), now(all_lost_by_collectors(), "Collectors", "B")],
            unit="none", nothing="not known", width=4, decimals=0, named=True, steps=panels.NONE_IS_GOOD,
        ),
    )  # fmt: skip


def _tables(logs: LogQueries):
    lost = f"sum by ({BY_RUN}) ({grown(NODE_TIME, RUNS, NOT_RUNNING)})"
    most = f"and on ({BY_RUN}) topk({MOST}, {lost})"
    ratio = f"sum by ({BY_RUN}) ({grown(JOB_TIME, RUNS, RUNNING)}) / (sum by ({BY_RUN}) ({grown(JOB_TIME, RUNS)}) > 0)"
    causes, victims = (grown(FAILURES, RUNS, f"{role}, {ONE_HOST}") for role in (CAUSES, VICTIMS))
    causes, victims = by_node(causes), by_node(victims)
    caused, suffered = (f"sum by (cluster, {NODE}) ({failures})" for failures in (causes, victims))
    top = f"and on (cluster, {NODE}) topk({MOST}, {caused} * 1000000 + {suffered} > 0)"
    runs_hurt = f"count by (cluster, {NODE}) (sum by (cluster, {NODE}, {RUN}) ({causes}) > 0)"
    sources = f"${{prometheus:queryparam}}&${{{logs.name}:queryparam}}&${{traces:queryparam}}&${{__url_time_range}}"
    to_job = f"/d/{JOB_UID}/?var-run_id=${{__value.raw}}&${{cluster:queryparam}}&${{job:queryparam}}&{sources}"
    return (
        tables.columns(
            "Which jobs lose the most?",
            f"The {MOST} runs that lost most node time, with their share of time in which they could train. A run id"
            " leads to its dashboard.",
            [
                rows(f"topk({MOST}, {lost}) / 3600"),
                rows(f"{ratio} {most}", "B"),
                rows(f"sum by ({BY_RUN}) ({grown(RESTARTS, RUNS)}) {most}", "C"),
                rows(f"max by ({BY_RUN}) (max_over_time({series(WORLD_SIZE, RUNS)}[$__range])) {most}", "D"),
            ],
            {
                "cluster": "Cluster", "job": "Job", RUN: "Run id", "Value #A": "Node-hours lost",
                "Value #B": "Could train", "Value #C": "Restarts", "Value #D": "Nodes at most",
            },
            of="rows", nothing="no job", width=14, sort_by="Node-hours lost",
            units={"Node-hours lost": "suffix: h", "Could train": "percentunit"},
            links={"Run id": ("Show this run", to_job)},
        ),
        tables.columns(
            "Which nodes fail most?",
            f"The {MOST} nodes (Kubernetes' names of them, elsewhere hosts) with most worker failures, and how many"
            " runs they hurt. Causes in several runs: take the node out. Victims only: leave it alone.",
            [
                rows(f"{caused} {top}"),
                rows(f"{suffered} {top}", "B"),
                rows(f"{runs_hurt} {top}", "C"),
            ],
            {"cluster": "Cluster", NODE: "Node", "Value #A": "Causes", "Value #B": "Victims", "Value #C": "Runs hurt"},
            of="rows", nothing="no worker failed", width=10, sort_by="Causes",
        ),
    )  # fmt: skip


def _course():
    nodes = f"sum by ({STATE}) (rate({series(NODE_TIME, RUNS)}[$__rate_interval]))"
    each = f"sum by ({REASON}) ({grown_each_step(RESTARTS, RUNS)}) > 0"
    return (
        panels.lines(
            "What do all nodes do, over time?",
            "Nodes of all jobs by the state of their agents. A change that affects many jobs at the same time has"
            " a shared cause: network, storage, the host of a store.",
            [over_time(nodes, f"{{{{{STATE}}}}}")],
            unit="none", nothing="no agent reported its time", stacked=True, colours=panels.STATES,
        ),
        panels.ranked(
            "Why did jobs restart?",
            "Restarts by reason. worker_failure: programs and GPUs. node_lost: hosts, network, preemption."
            " membership_change: nodes joined or left. unknown: agents disappeared without reporting a reason.",
            [now(f"sum by ({REASON}) ({grown(RESTARTS, RUNS)}) > 0", f"{{{{{REASON}}}}}")],
            unit="none", nothing="no restart", width=6,
        ),
        panels.ranked(
            "Where did the nodes' time go?",
            "Time of all nodes by state. All states except running are lost; start with the largest.",
            [now(f"sort_desc(sum by ({STATE}) ({grown(NODE_TIME, RUNS)}))", f"{{{{{STATE}}}}}")],
            unit="s", nothing="no job", colours=panels.STATES, width=6,
        ),
        panels.lines(
            "When did jobs restart?",
            "Restarts by reason, per step of the graph. Many jobs at the same time: look for a shared cause. One"
            " job repeatedly: a restart storm; stop the job, or cordon its host.",
            [over_time(each, f"{{{{{REASON}}}}}")],
            unit="none", nothing="no restart", stacked=True, bars=True, width=24, height=6, at_least="5m",
        ),
    )  # fmt: skip


def _rendezvous():
    def by_run(metric: str) -> str:
        return f"sum by ({BY_RUN}) ({grown(metric, RUNS)})"

    conflicts = f"topk(10, {by_run(STALE)} > 0)"
    return (
        panels.ranked(
            "Which jobs wait for nodes?",
            "Jobs whose rendezvous still needs nodes, by their number. Open the job to see who is missing.",
            [now(f"topk(10, max by ({BY_RUN}) ({of_the_round(MISSING, RUNS)}) > 0)", f"{{{{{RUN}}}}}")],
            unit="none", nothing="none", steps=panels.ANY_IS_BAD, width=6,
        ),
        panels.ranked(
            "In which jobs do nodes collide?",
            "Changes of the rendezvous state that lost against a concurrent change and were repeated. The number"
            " grows with the square of the nodes that join at once: set cas_backoff_max_seconds (--rdzv-conf,"
            " torch 2.15).",
            [now(conflicts, f"{{{{{RUN}}}}}")],
            unit="none", nothing="none", width=6,
        ),
        panels.ranked(
            "How many conflicts per heartbeat?",
            "The same per heartbeat that was sent. Above 1, nodes spend more time on repeated changes than on"
            " heartbeats, and heartbeats are late.",
            [now(f"topk(10, {by_run(STALE)} / ({by_run(BEATS_SENT)} > 0))", f"{{{{{RUN}}}}}")],
            unit="short", nothing="none", steps=((None, "green"), (0.5, "yellow"), (1, "red")), width=6,
        ),
        panels.ranked(
            "Which hosts fail to send heartbeats?",
            "The ten hosts with most heartbeats that could not be sent. Hosts of one rack: its network. Hosts of"
            " one job: the host of its store.",
            [now(f"topk(10, sum by ({HOST}) ({grown(BEATS_FAILED, RUNS, ONE_HOST)}) > 0)", f"{{{{{HOST}}}}}")],
            unit="none", nothing="none", steps=panels.NONE_IS_GOOD, width=6,
        ),
    )  # fmt: skip


def _telemetry():
    of_agents = lost_by_agents(RUNS, ONE_HOST)
    refused = {"not deliverable": grown(SET_ASIDE, RUNS, ONE_HOST), "refused": grown(REJECTED, RUNS, ONE_HOST)}
    of_collectors = f"sum by (instance, exporter, lost) ({lost_by_collectors()})"
    return (
        panels.ranked(
            "What did agents lose?",
            "dropped: the spool was full; enlarge it or repair the connection to the Collector. not deliverable"
            " and refused: the Collector's log has the reason.",
            [now(f"sum by (lost) ({of_agents})", "{{lost}}")],
            unit="none", nothing="not known", steps=panels.NONE_IS_GOOD, width=6,
        ),
        panels.ranked(
            "Which destination refuses?",
            "Records of agents that were rejected or could not be delivered, by destination.",
            [now(f"sum by ({DESTINATION}) ({together('lost', refused)}) > 0", f"{{{{{DESTINATION}}}}}")],
            unit="none", nothing="none", steps=panels.NONE_IS_GOOD, width=6,
        ),
        panels.ranked(
            "What do Collectors throw away?",
            "Items of any job that a Collector discarded after a permanent rejection by a backend (400, 401, 403,"
            " 413 ...): they are lost. The Collector's log has the backend's answer. This needs the Collectors'"
            " own metrics: scrape them.",
            [now(f"topk(10, {of_collectors} > 0)", "{{instance}} to {{exporter}}: {{lost}}")],
            unit="none", nothing="nothing that is known", steps=panels.NONE_IS_GOOD, width=12,
        ),
        panels.ranked(
            "Whose spool is the largest?",
            "The ten hosts with the largest spools. At TORCHELASTIC_OTEL_SPOOL_MAX_BYTES (64 MiB by default) the"
            " oldest events are dropped.",
            [now(f"topk(10, max by ({HOST}) ({series(SPOOL_SIZE, RUNS, ONE_HOST)}))", f"{{{{{HOST}}}}}")],
            unit="bytes", nothing="not known", width=12,
            steps=((None, "green"), (32 << 20, "yellow"), (56 << 20, "red")),
        ),
        panels.ranked(
            "Who is behind with delivering?",
            "The ten hosts with the oldest undelivered records. Minutes: the Collector is slow or unreachable.",
            [now(f"topk(10, max by ({HOST}) ({series(SPOOL_AGE, RUNS, ONE_HOST)}))", f"{{{{{HOST}}}}}")],
            unit="s", nothing="nobody", steps=((None, "green"), (60, "yellow"), (600, "red")), width=12,
        ),
    )  # fmt: skip
