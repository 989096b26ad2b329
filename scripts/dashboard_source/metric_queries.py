"""The queries of metrics, in PromQL, with the dashboards' variables in them.

A counter is read as its growth in a window, summed over the instances that export it. The agents' counters start at 0
and never fall while their process lives, and each process is a separate instance: the growth is exactly the largest
value minus the smallest. ``increase()`` extrapolates beyond the first and the last sample, and makes 1.5 restarts of 1
in a short run.
"""

from collections.abc import Mapping

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from torchelastic_otel import semconv

METRICS = DataSourceRef(type_val="prometheus", uid="${prometheus}")


def label(name: str) -> str:
    """The label of an attribute."""
    return name.replace(".", "_")


RUN, HOST, ROUND = label(semconv.RUN_ID), label(semconv.HOST_NAME), label(semconv.RENDEZVOUS_ROUND)
STATE, REASON = label(semconv.TIME_STATE), label(semconv.RESTART_REASON)
RESTARTS = label(semconv.METRIC_RESTARTS) + "_total"
JOB_TIME = label(semconv.METRIC_TIME) + "_seconds_total"
NODE_TIME = label(semconv.METRIC_AGENT_TIME) + "_seconds_total"
FAILURES = label(semconv.METRIC_FAILURES) + "_total"
MEMBERSHIP = label(semconv.METRIC_MEMBERSHIP_CHANGES) + "_total"
STALE = label(semconv.METRIC_STATE_STALE) + "_total"
EVENTS = label(semconv.METRIC_EVENTS) + "_total"
BEATS_SENT = label(semconv.METRIC_KEEP_ALIVE_SENT) + "_total"
BEATS_FAILED = label(semconv.METRIC_KEEP_ALIVE_FAILED) + "_total"
BEAT_AGE = label(semconv.METRIC_KEEP_ALIVE_AGE) + "_seconds"
ROUND_NOW = label(semconv.METRIC_RENDEZVOUS_ROUND)
WORLD_SIZE = label(semconv.METRIC_WORLD_SIZE)
PARTICIPANTS = label(semconv.METRIC_PARTICIPANTS)
MISSING = label(semconv.METRIC_MISSING)
SPOOL_DROPPED = label(semconv.METRIC_SPOOL_DROPPED) + "_total"
SPOOL_SIZE = label(semconv.METRIC_SPOOL_SIZE) + "_bytes"
SPOOL_AGE = label(semconv.METRIC_SPOOL_AGE) + "_seconds"
SET_ASIDE = label(semconv.METRIC_EXPORT_FAILED) + "_total"
REJECTED = label(semconv.METRIC_EXPORT_REJECTED) + "_total"
DESTINATION = label(semconv.EXPORT_DESTINATION)

# Where a service has a namespace, Prometheus' job is "namespace/name" and Loki's service_name the name alone.
CLUSTER = 'cluster=~"$cluster"'
JOB = f'{CLUSTER}, job=~"(.*/)?$job"'
ONE_RUN = f'{JOB}, {RUN}="$run_id"'
"""The series of the run that the job dashboard shows."""
RUNS = f'{JOB}, {RUN}=~"$run_id"'
"""The series of all runs that the fleet dashboard shows."""
BY_RUN = f"cluster, job, {RUN}"
ONE_HOST = f'{HOST}=~"$host"'
"""The chosen hosts."""
NODE = "node"
"""The label that :func:`by_node` gives."""
COLLECTORS = 'cluster=~"$cluster|"'
"""The Collectors of the chosen clusters, and those without a cluster."""


def series(metric: str, where: str, more: str = "") -> str:
    """A selector."""
    return f"{metric}{{{where}{', ' + more if more else ''}}}"


def grown(metric: str, where: str, more: str = "", at: str = "") -> str:
    """The growth of each series of a counter in the dashboard's window (see the header of this file)."""
    selected = f"{series(metric, where, more)}[$__range]{at}"
    return f"(max_over_time({selected}) - min_over_time({selected}))"


def by_node(expr: str) -> str:
    """Each series with its machine: the node of Kubernetes, and elsewhere the host.

    On Kubernetes host.name is the pod's, which changes with each start.
    """
    hosts = f'label_replace({expr}, "{NODE}", "$1", "{HOST}", "(.*)")'
    return f'label_replace({hosts}, "{NODE}", "$1", "k8s_node_name", "(.+)")'


def together(label_name: str, parts: Mapping[str, str]) -> str:
    """The series of all parts, each with its part's name as a label: otherwise `or` would merge two of them."""
    return " or ".join(f'label_replace({expr}, "{label_name}", "{name}", "", "")' for name, expr in parts.items())


def lost_by_agents(where: str, more: str = "") -> str:
    """Records that agents lost permanently, by kind; no series if no agent reports."""
    metrics = {"dropped": SPOOL_DROPPED, "not deliverable": SET_ASIDE, "refused": REJECTED}
    return together("lost", {name: grown(metric, where, more) for name, metric in metrics.items()})


def lost_by_collectors() -> str:
    """Items that Collectors discarded in the dashboard's window, by signal and exporter, by their own counters.

    Such a counter starts at its first failure, not at 0: its first value is loss too, unless the series is older than
    the window. After a reset (another process at the same address) increase() gives an estimate.
    """

    def of(signal: str) -> str:
        # scraped, or pushed by OTLP (_total)
        failed = f'{{__name__=~"otelcol_exporter_send_failed_{signal}(_total)?", {COLLECTORS}}}'
        window = f"{failed}[$__range]"
        anew = f"increase({window}) and resets({window}) > 0"
        first = f"min_over_time({window}) unless {failed} offset $__range"
        return together(
            "part", {"first": first, "more": f"{anew} or max_over_time({window}) - min_over_time({window})"}
        )

    return together("lost", {signal: of(signal) for signal in ("log_records", "spans", "metric_points")})


def all_lost_by_collectors() -> str:
    """The sum of it; 0 only if a Collector is scraped, and no series if none is."""
    uptime = f'{{__name__=~"otelcol_process_uptime(_seconds)?(_total)?", {COLLECTORS}}}'
    return f"sum({lost_by_collectors()}) or 0 * sum(last_over_time({uptime}[$__range]))"


def grown_each_step(metric: str, where: str) -> str:
    """The growth of each series from one point of a graph to the next: each event is in exactly one step.

    The largest value of a step minus that of the step before; for a series that is new, or that paused, minus its
    smallest.
    """
    step = f"{series(metric, where)}[$__interval]"
    return f"(max_over_time({step}) - (max_over_time({step} offset $__interval) or min_over_time({step})))"


def of_the_round(metric: str, where: str) -> str:
    """A gauge of the job, from the job reporter of its newest round.

    After a change of the reporter, the previous one's series stays at its last value for five minutes.
    """
    newest = f"max by (cluster, {RUN}) ({series(ROUND_NOW, where)})"
    return (
        f"{series(metric, where)} and on (cluster, {RUN}, instance)"
        f" ({series(ROUND_NOW, where)} == on (cluster, {RUN}) group_left () {newest})"
    )


def now(expr: str, name: str = "__auto", ref: str = "A") -> prometheus.Dataquery:
    """One value for each series, at the end of the window."""
    return prometheus.Dataquery().datasource(METRICS).expr(expr).instant().legend_format(name).ref_id(ref)


def rows(expr: str, ref: str = "A") -> prometheus.Dataquery:
    """The same, as rows of a table: a column for each label, and ``Value #ref``."""
    return now(expr, ref=ref).format(PromQueryFormat.TABLE)


def over_time(expr: str, name: str = "__auto", ref: str = "A") -> prometheus.Dataquery:
    """A line for each series."""
    return prometheus.Dataquery().datasource(METRICS).expr(expr).range().legend_format(name).ref_id(ref)
