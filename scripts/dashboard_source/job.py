"""The dashboard of one job: the questions of the person on call, in their order.

Each panel shows as much of a job of a thousand nodes as of one: sums by a fixed set of states, a few outliers, or the
records of the job reporter.
"""

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as d

from dashboard_source import panels, tables
from dashboard_source.job_details import costs, course, event_log, nodes
from dashboard_source.log_queries import LANGUAGES, LogQueries
from dashboard_source.metric_queries import (
    JOB_TIME,
    MISSING,
    NODE_TIME,
    ONE_RUN,
    RESTARTS,
    STATE,
    WORLD_SIZE,
    grown,
    now,
    of_the_round,
    series,
)
from dashboard_source.variables import cluster, data_sources, host, job, newest_round, round_, run
from torchelastic_otel import semconv

UID = "torchelastic-job"
CAUSE_COLUMNS = {
    "host": "Host", "rank": "Rank", "exit_code": "Exit code", "signal": "Signal", "error_type": "Error",
    "failure_kind": "Kind", "function": "Function", "line": "Line", "message": "Message",
}  # fmt: skip
"""The columns of a restart's cause, by the end of the attribute's name."""
RUNNING = f'{STATE}="running"'
NOT_RUNNING = f'{STATE}!="running"'


def build(log_store: str, traces: str = "jaeger") -> d.Dashboard:
    """The dashboard; ``log_store`` is loki or victorialogs, ``traces`` jaeger or tempo."""
    logs = LANGUAGES[log_store]
    board = (
        dashboard.Dashboard("Torchelastic: one job")
        .uid(UID)
        .description("One torchrun job: is it running, who failed first, why did it restart, and what did it cost?")
        .tags(["torchelastic", "pytorch", "opentelemetry"])
        .time("now-6h", "now")
        .refresh("1m")
        .tooltip(d.DashboardCursorSync.CROSSHAIR)
        .link(panels.link_to("All jobs", "/d/torchelastic-fleet/", logs))
    )
    for variable in (*data_sources(logs, traces), cluster(), job(), run(), round_(), newest_round(), host(ONE_RUN)):
        board = board.with_variable(variable)
    for annotation in _annotations(logs):
        board = board.annotation(annotation)
    for title, row in (
        ("Is it running, and if not, why?", (*_at_a_glance(logs), *_causes(logs, traces))),
        ("What happened when?", course()),
        ("What did the restarts cost?", costs(logs)),
        ("Who is waited for, and which nodes stand out?", nodes(logs)),
        ("What exactly happened?", (event_log(logs),)),
    ):
        board = board.with_row(dashboard.Row(title))
        for panel in row:
            board = board.with_panel(panel)
    return panels.numbered(board.build())


def _annotations(logs: LogQueries) -> list[dashboard.AnnotationQuery]:
    """Records that exist once for the whole job, so that a thousand nodes do not draw a thousand lines."""
    round_, reason = logs.field(semconv.RENDEZVOUS_ROUND), logs.field(semconv.RESTART_REASON)
    queries = {
        "Rounds": (logs.of_event(semconv.ROUND_STARTED), "green", f"Round {{{{{round_}}}}} runs"),
        "Restarts": (
            logs.of_event(semconv.RESTART_COMPLETED, logs.reported_once()),
            "orange",
            f"Restarted: {{{{{reason}}}}}",
        ),
        "Membership": (logs.of_event(semconv.MEMBERSHIP_CHANGED), "blue", "Membership changed"),
    }
    return [
        dashboard.AnnotationQuery().name(name).datasource(logs.source).enable(True).icon_color(color)
        .expr(expr).title_format(title).text_format("").tag_keys(f"{logs.field(semconv.HOST_NAME)},{reason}")
        for name, (expr, color, title) in queries.items()
    ]  # fmt: skip


def _at_a_glance(logs: LogQueries):
    last_two = f"sum by ({STATE}) (irate({series(NODE_TIME, ONE_RUN)}[3m]))"
    over = logs.equals(semconv.PHASE, "ended")
    ended = [
        logs.of_event(semconv.AGENT_PHASE_ENTERED, over, outcome(semconv.AGENT_OUTCOME, "succeeded"))
        for outcome in (logs.equals, logs.differs)
    ]
    restarts = logs.of_event(semconv.RESTART_COMPLETED, logs.reported_once())
    spent = grown(JOB_TIME, ONE_RUN)
    return (
        panels.number(
            "Is it running now?",
            "The state of most nodes, and their number. 'running' means that worker processes exist, not that"
            " they make progress. Rendezvous for minutes: see who is missing. Empty: all agents are silent; see"
            " how the job ended, and if it did not, check the hosts and their connection to the Collector.",
            [now(f"topk(1, {last_two} > 0)", f"{{{{{STATE}}}}}")],
            unit="suffix: nodes", nothing="silent for 3 min", width=4, decimals=0, colours=panels.STATES, named=True,
        ),
        panels.number(
            "Has it ended, and how?",
            "The number of agents that ended, with and without success. Without: the first failure of the newest"
            " round is the cause. A killed agent (SIGKILL, lost node) is counted only after its orphaned spool is"
            " delivered.",
            [logs.count(each, ref) for each, ref in zip(ended, "AB", strict=True)],
            unit="suffix: agents", nothing="not ended", width=4, decimals=0, named=True,
            by_query={"A": ("succeeded", "green"), "B": ("not succeeded", "red")},
        ),
        panels.number(
            "Is anybody missing?",
            "Nodes of the newest round, and nodes that a rendezvous still needs. Fewer nodes than requested: the"
            " job shrank, see the membership changes. Missing above 0: see who is missing.",
            [
                now(f"max({of_the_round(WORLD_SIZE, ONE_RUN)})", "in"),
                now(f"max({of_the_round(MISSING, ONE_RUN)})", "missing", "B"),
            ],
            unit="none", nothing="not known", width=4, decimals=0, named=True,
            by_name={"in": ((None, "blue"),), "missing": ((None, "green"), (1, "orange"))},
        ),
        panels.number(
            "How many restarts?",
            "Restarts in the time range, for any reason. Many in a row with the same host or message: cordon that"
            " host, or stop the job, since it will not recover.",
            [now(f"sum({grown(RESTARTS, ONE_RUN)})")],
            unit="none", nothing="not known", width=3, decimals=0, steps=panels.ANY_IS_BAD,
        ),
        panels.number(
            "How long was the last?",
            "The time from the failure until all workers run again. Longer than usual: see which phase takes"
            " long.",
            [logs.newest_value(restarts, semconv.RESTART_DURATION)],
            unit="s", nothing="none yet", width=3, decimals=1, steps=((None, "green"), (60, "yellow"), (300, "red")),
        ),
        panels.number(
            "How much could it train?",
            "Effective training time, an upper bound: the share of the job's time in which its workers ran. Work"
            " lost since the last checkpoint is not known here. A bring-up counts after its round starts. Low: see"
            " the job's time by state.",
            [now(f"sum({grown(JOB_TIME, ONE_RUN, RUNNING)}) / (sum({spent}) > 0)")],
            unit="percentunit", nothing="not known", width=3, decimals=1, steps=panels.SHARE_OF_TIME,
        ),
        panels.number(
            "How much is lost?",
            "Node-hours: the time of all nodes in which their workers did not run, including a waiting"
            " rendezvous. Multiply by the cost of a node.",
            [now(f"sum({grown(NODE_TIME, ONE_RUN, NOT_RUNNING)}) / 3600")],
            unit="suffix: node-h", nothing="not known", width=3,
        ),
    )  # fmt: skip


def _causes(logs: LogQueries, traces: str):
    field = logs.field
    link = {"Trace": ("Show the trace", tables.address_of_trace(traces))}
    in_round = logs.chosen(semconv.RENDEZVOUS_ROUND, "round")
    first = logs.of_event(
        semconv.WORKER_FAILED, logs.equals(semconv.FAILURE_ROLE, "cause"),
        logs.equals(semconv.RENDEZVOUS_ROUND, "$newest_round"), logs.chosen(semconv.HOST_NAME, "host"),
    )  # fmt: skip
    return (
        tables.columns(
            "Why did it restart, who failed first, and how long did it take?",
            "Each restart once, the newest first, with the cause that all agents agreed on. The same host"
            " repeatedly: cordon it and check its hardware. Different hosts with the same message: the program."
            " node_lost and node_left name the node. 'Agreed' false: torch below 2.4, or a store other than c10d;"
            " then it is one agent's local view.",
            [logs.records(logs.of_event(semconv.RESTART_COMPLETED, logs.reported_once(), in_round))],
            {
                "Time": "Time", field(semconv.RENDEZVOUS_ROUND): "Into round", field(semconv.RESTART_REASON): "Reason",
                **{field(f"{semconv.CAUSE}.{name}"): column for name, column in CAUSE_COLUMNS.items()},
                field(semconv.RESTART_DURATION): "Took", field(semconv.RESTART_AGREED): "Agreed", "trace_id": "Trace",
            },
            of="records", nothing="no restart", units={"Took": "s"}, links=link, width=24, height=5,
            widths={
                "Time": 170, "Into round": 90, "Reason": 140, "Host": 150, "Rank": 60, "Exit code": 80, "Signal": 80,
                "Error": 160, "Took": 75, "Agreed": 75, "Trace": 290,
            },
        ),
        tables.columns(
            "Who failed first in the newest round?",
            "The earliest twenty causes of the newest of the chosen rounds, each as its own node knows it, by the"
            " hosts' clocks: the first did it, or others waited for it (kind hang). Use this if no restart followed:"
            " restarts are exhausted, or the rendezvous waits. Open the trace, or the event log for the traceback.",
            [logs.records(first, most=20, newest_first=False)],
            {
                "Time": "Time", field(semconv.RENDEZVOUS_ROUND): "Round", field(semconv.HOST_NAME): "Host",
                field(semconv.WORKER_RANK): "Rank", field(semconv.WORKER_LOCAL_RANK): "Local rank",
                field(semconv.FAILURE_KIND): "Kind", field(semconv.CODE_FUNCTION_NAME): "Function",
                field(semconv.CODE_LINE_NUMBER): "Line",
                field(semconv.PROCESS_EXIT_CODE): "Exit code", field(semconv.WORKER_SIGNAL): "Signal",
                field(semconv.EXCEPTION_TYPE): "Error", field(semconv.EXCEPTION_MESSAGE): "Message",
                "trace_id": "Trace",
            },
            of="records", nothing="nobody", links=link, width=24, height=5, sort_by="Time", descending=False,
            widths={
                "Time": 170, "Round": 90, "Host": 150, "Rank": 60, "Local rank": 85, "Exit code": 80, "Signal": 80,
                "Error": 160, "Trace": 290,
            },
        ),
    )  # fmt: skip
