"""The variables of both dashboards.

Data sources are variables, so that the JSON contains no installation's ids. "All" is a pattern and not a list, so that
a query is as short with a thousand hosts as with one, and matches series without the label. For jobs "All" is the list
of the offered names: it selects the streams of the log store, and a pattern would select all of its logs.
"""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as d

from dashboard_source.log_queries import LogQueries
from dashboard_source.metric_queries import (
    CLUSTER,
    EVENTS,
    HOST,
    JOB,
    METRICS,
    ONE_RUN,
    RESTARTS,
    ROUND_NOW,
    RUN,
    RUNS,
    grown,
    series,
)

_A_ROUND = '/round="([0-9]+)"/'
ALL = d.VariableOption(selected=True, text="All", value="$__all")


def data_sources(logs: LogQueries, traces: str) -> list[dashboard.DatasourceVariable]:
    """The three backends; ``traces`` is jaeger or tempo."""
    kinds = {
        "prometheus": ("prometheus", "Metrics", "Where the metrics are."),
        logs.name: (logs.kind, "Logs", "Where the log records are."),
        "traces": (traces, "Traces", "Where the traces are; links of trace ids lead there."),
    }
    return [
        dashboard.DatasourceVariable(name).type(kind).label(label).description(description)
        for name, (kind, label, description) in kinds.items()
    ]


def _asked(name: str, label: str, description: str, query: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(name).label(label).description(description).datasource(METRICS)
    variable = variable.query({"query": query, "refId": name})
    return variable.refresh(d.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(d.VariableSort.NATURAL_ASC)


def _any_of(variable: dashboard.QueryVariable, pattern: str | None = ".*") -> dashboard.QueryVariable:
    variable = variable.multi(True).include_all(True).current(ALL)
    return variable if pattern is None else variable.all_value(pattern)


def cluster() -> dashboard.QueryVariable:
    """Clusters."""
    description = "Clusters whose jobs are shown; the Collector sets the cluster of each job."
    return _any_of(_asked("cluster", "Cluster", description, f"label_values({EVENTS}, cluster)"))


def job() -> dashboard.QueryVariable:
    """Services; without the namespace before the name, since log records do not have it there."""
    description = "Services (OTEL_SERVICE_NAME); torchrun by default."
    query = f"label_values({series(EVENTS, CLUSTER)}, job)"
    return _any_of(_asked("job", "Job", description, query).regex("/^(?:.*\\/)?([^\\/]+)$/"), None)


def run() -> dashboard.QueryVariable:
    """The run that is shown."""
    description = (
        "The run (torchrun --rdzv-id). Runs with the same id are shown together: narrow the time range to one of them."
    )
    return _asked("run_id", "Run id", description, f"label_values({series(EVENTS, JOB)}, {RUN})")


def runs() -> dashboard.QueryVariable:
    """The runs that are shown."""
    description = "Runs that are shown (torchrun --rdzv-id)."
    return _any_of(_asked("run_id", "Run id", description, f"label_values({series(EVENTS, JOB)}, {RUN})"))


def _largest_round() -> str:
    """The newest round: the gauge's largest value, or, of rounds that fall between two samples, how many restarts."""
    restarts = f"sum({grown(RESTARTS, ONE_RUN, at=' @ end()')})"
    return f"max(max_over_time({series(ROUND_NOW, ONE_RUN)}[$__range] @ end()) or {restarts})"


def _each_round() -> str:
    """A series for each round of the run: its number, also as the label ``round``.

    A round is a gauge's value and no label, and a short one falls between two samples. So the numbers from 0 to the
    largest are counted up: a subquery that steps through a thousand seconds has each number up to 999 in turn.
    """
    number = f"(vector(time() % 1000) <= scalar({_largest_round()}))"
    return f'last_over_time((count_values("round", {number}) * on () group_left () {number})[1000s:1s])'


def newest_round() -> dashboard.QueryVariable:
    """The newest of the chosen rounds, for a query; it is hidden."""
    description = "The newest of the chosen rounds."
    chosen = f'label_replace({_each_round()}, "chosen", "yes", "round", "$round")'
    query = f'query_result(topk(1, {chosen} and on (chosen) label_replace(vector(1), "chosen", "yes", "", "")))'
    variable = _asked("newest_round", "Newest round", description, query).regex(_A_ROUND)
    return variable.hide(d.VariableHide.HIDE_VARIABLE)


def round_() -> dashboard.QueryVariable:
    """The rounds of the run."""
    description = "Rounds of the restarts, of the first failures (the newest of the rounds), and of the event log."
    variable = _asked("round", "Round", description, f"query_result({_each_round()})").regex(_A_ROUND)
    return _any_of(variable).sort(d.VariableSort.NUMERICAL_DESC)


def host(where: str = RUNS) -> dashboard.QueryVariable:
    """The hosts of the runs that ``where`` selects."""
    description = "Hosts of the panels about single nodes, of the agents' losses, of failures and of the event log."
    return _any_of(_asked("host", "Host", description, f"label_values({series(EVENTS, where)}, {HOST})"))
