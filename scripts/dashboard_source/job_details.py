"""The dashboard of one job, below the first screen: the time line, the cost of restarts, the nodes, and the event log.

As in ``job.py``, the size of a panel does not depend on the number of nodes.
"""

from dashboard_source import panels, tables
from dashboard_source.log_queries import LogQueries
from dashboard_source.metric_queries import (
    BEAT_AGE,
    BEATS_FAILED,
    DESTINATION,
    FAILURES,
    HOST,
    JOB_TIME,
    MEMBERSHIP,
    MISSING,
    NODE_TIME,
    ONE_HOST,
    ONE_RUN,
    PARTICIPANTS,
    REASON,
    REJECTED,
    RESTARTS,
    ROUND_NOW,
    SET_ASIDE,
    STATE,
    WORLD_SIZE,
    all_lost_by_collectors,
    grown,
    label,
    lost_by_agents,
    now,
    of_the_round,
    over_time,
    rows,
    series,
)
from torchelastic_otel import semconv

CHANGE = label(semconv.MEMBERSHIP_CHANGE)
RUNNING = f'{STATE}="running"'


def course():
    """States, sizes and rounds over time."""
    nodes = f"sum by ({STATE}) (rate({series(NODE_TIME, ONE_RUN)}[$__rate_interval]))"
    return (
        panels.lines(
            "What do the nodes do, over time?",
            "Nodes by the state of their agents. All states except running are lost time. A state that persists:"
            " rendezvous waits for nodes, starting is slow images or imports, exit_barrier waits for other nodes"
            " to end.",
            [over_time(nodes, f"{{{{{STATE}}}}}")],
            unit="none", nothing="no agent reported its time", stacked=True, colours=panels.STATES,
        ),
        panels.lines(
            "How large is the job, over time?",
            "Nodes in the round, nodes in the rendezvous, and missing nodes. A falling number in the round: nodes"
            " were lost and the job continues without them.",
            [
                over_time(f"max({of_the_round(WORLD_SIZE, ONE_RUN)})", "in the round"),
                over_time(f"max({of_the_round(PARTICIPANTS, ONE_RUN)})", "take part", "B"),
                over_time(f"max({of_the_round(MISSING, ONE_RUN)})", "missing", "C"),
            ],
            unit="none", nothing="no round yet", steps_between=True, width=6,
            colours={"in the round": "green", "take part": "blue", "missing": "red"},
        ),
        panels.lines(
            "Which round is it in?",
            "Each step is a restart; many steps in a row are a restart storm. The annotations have the reasons.",
            [over_time(f"max({series(ROUND_NOW, ONE_RUN)})", "round")],
            unit="none", nothing="no round yet", steps_between=True, width=6, colours={"round": "purple"},
        ),
    )  # fmt: skip


def costs(logs: LogQueries):
    """The cost of restarts and waiting."""
    ran = series(JOB_TIME, ONE_RUN, RUNNING)
    spent = f"sum by ({STATE}) ({grown(JOB_TIME, ONE_RUN)})"
    in_round = logs.chosen(semconv.RENDEZVOUS_ROUND, "round")
    restarts = logs.of_event(semconv.RESTART_COMPLETED, logs.reported_once(), in_round)
    running, all_of_it = (f"sum(rate({each}[$__rate_interval]))" for each in (ran, series(JOB_TIME, ONE_RUN)))
    parts = {logs.field(semconv.RESTART_PHASE_DURATION.format(phase=phase)): phase for phase in panels.PHASES}
    return (
        tables.stack_of_each(
            "Which part of a restart takes long?",
            "Each restart by its phases, as the job reporter observed it. detect: worker monitoring, or a lost"
            " node's keep-alive timeout. stop: workers that ignore SIGTERM. rendezvous: late nodes, or torch's"
            " last-call timeout. assign_ranks and start: the store, images, imports.",
            [logs.records(restarts, most=30)],
            (logs.field(semconv.RENDEZVOUS_ROUND), "Round"), parts,
            unit="s", nothing="no restart", colours=panels.PHASES, width=9,
        ),
        panels.ranked(
            "Where did the job's time go?",
            "The job's time by state, in the time range. All states except running are lost; start with the"
            " largest.",
            [now(f"sort_desc({spent})", f"{{{{{STATE}}}}}")],
            unit="s", nothing="not known", colours=panels.STATES, width=5,
        ),
        panels.ranked(
            "Why did it restart?",
            "Restarts by reason. worker_failure: the program or its GPUs. node_lost: hosts, network, preemption."
            " membership_change: nodes joined or left.",
            [now(f"sum by ({REASON}) ({grown(RESTARTS, ONE_RUN)}) > 0", f"{{{{{REASON}}}}}")],
            unit="none", nothing="no restart", width=4,
        ),
        panels.lines(
            "Does it get better or worse?",
            "Effective training time, an upper bound: the share of time in which workers ran. A dip is a restart;"
            " increasingly frequent dips suggest a failing host or a memory leak.",
            [over_time(f"{running} / ({all_of_it} > 0)", "could train")],
            unit="percentunit", nothing="not known", width=6, most=1, colours={"could train": "green"},
        ),
    )  # fmt: skip


def nodes(logs: LogQueries):
    """Missing nodes, outliers, and whether the telemetry is complete."""
    causes, victims = (f'{label(semconv.FAILURE_ROLE)}="{role}", {ONE_HOST}' for role in ("cause", "victim"))
    caused, suffered = (f"sum by ({HOST}) ({grown(FAILURES, ONE_RUN, role)})" for role in (causes, victims))
    top = f"topk(10, {caused} * 1000000 + {suffered} > 0)"
    lost = [
        f"sum by ({DESTINATION}) ({grown(metric, ONE_RUN, ONE_HOST)}) > 0" for metric in (SET_ASIDE, REJECTED)
    ]  # fmt: skip
    waiting = logs.of_event(semconv.RENDEZVOUS_WAITING, logs.chosen(semconv.HOST_NAME, "host"))
    return (
        tables.columns(
            "Who is missing?",
            "Reports of agents about a delayed rendezvous, the newest first: the number of nodes that are present"
            " and missing, and the nodes of the previous round that did not return. Missing nodes without a name"
            " never joined: check in the scheduler whether they were started.",
            [logs.records(waiting, most=20)],
            {
                "Time": "Time", logs.field(semconv.HOST_NAME): "Reported by",
                logs.field(semconv.RENDEZVOUS_WAITED): "Waiting for", logs.field(semconv.RENDEZVOUS_MISSING): "Missing",
                logs.field(semconv.RENDEZVOUS_MISSING_NODES): "Missing nodes",
                logs.field(semconv.RENDEZVOUS_PARTICIPANTS): "Present",
            },
            of="records", nothing="no rendezvous was held up", units={"Waiting for": "s", "Missing": "none"},
            widths={"Time": 160, "Waiting for": 95, "Missing": 75},
        ),
        tables.columns(
            "Which hosts fail most?",
            "The ten hosts with most worker failures, causes before victims. A host with causes is a suspect; a"
            " host with victims only is not.",
            [
                rows(f"{caused} and {top}"),
                rows(f"{suffered} and {top}", "B"),
            ],
            {HOST: "Host", "Value #A": "Causes", "Value #B": "Victims"},
            of="rows", nothing="no worker failed", width=6, sort_by="Causes",
        ),
        panels.ranked(
            "Whose heartbeats are late?",
            "The ten oldest heartbeats, by the agents' last reports. Torch sends one every 5 s and removes a node"
            " after three missing ones. Old heartbeats: the host is overloaded, frozen, or has lost its connection"
            " to the store.",
            [now(f"topk(10, max by ({HOST}) ({series(BEAT_AGE, ONE_RUN, ONE_HOST)}))", f"{{{{{HOST}}}}}")],
            unit="s", nothing="no agent waits for heartbeats", width=6,
            steps=((None, "green"), (10, "yellow"), (15, "red")),
        ),
        panels.ranked(
            "Which nodes came, went or were lost?",
            "Membership changes in the time range. Lost: the heartbeats stopped; the event log has the name of"
            " the node.",
            [now(f"sum by ({CHANGE}) ({grown(MEMBERSHIP, ONE_RUN)}) > 0", f"{{{{{CHANGE}}}}}")],
            unit="none", nothing="none", width=6, height=6,
        ),
        panels.ranked(
            "Which hosts fail to send heartbeats?",
            "The ten hosts with most heartbeats that could not be sent: the host of the store is slow, or the"
            " connection to it is broken.",
            [now(f"topk(10, sum by ({HOST}) ({grown(BEATS_FAILED, ONE_RUN, ONE_HOST)}) > 0)", f"{{{{{HOST}}}}}")],
            unit="none", nothing="none", width=6, height=6, steps=panels.NONE_IS_GOOD,
        ),
        panels.number(
            "Is anything missing from this?",
            "Records that this job's agents lost (dropped by full spools, quarantined, rejected), and records"
            " that Collectors discarded, of any job; without a value for Collectors, nothing scrapes them. Above 0"
            " this dashboard is incomplete: raise TORCHELASTIC_OTEL_SPOOL_MAX_BYTES, or read the Collector's log"
            " for its backend's error.",
            [
                now(f"sum({lost_by_agents(ONE_RUN)})", "its agents"),
                now(all_lost_by_collectors(), "Collectors", "B"),
            ],
            unit="none", nothing="not known", width=6, height=6, decimals=0, named=True, steps=panels.NONE_IS_GOOD,
        ),
        panels.ranked(
            "Who refused what was sent?",
            "Records that a destination rejected, or that no attempt could deliver. The Collector's log has the"
            " reason.",
            [now(lost[0], f"quarantined: {{{{{DESTINATION}}}}}"), now(lost[1], f"refused: {{{{{DESTINATION}}}}}", "B")],
            unit="none", nothing="nobody", width=6, height=6, steps=panels.NONE_IS_GOOD,
        ),
    )  # fmt: skip


def event_log(logs: LogQueries):
    """All events, line by line."""
    chosen = logs.of_run(
        logs.chosen(semconv.HOST_NAME, "host"), logs.chosen(semconv.RENDEZVOUS_ROUND, "round"),
        logs.differs("severity_text", "DEBUG"),
    )  # fmt: skip
    return panels.event_log(
        "What happened, step by step?",
        "All events except DEBUG, the newest first, of the chosen rounds and hosts. Open a line for its"
        " attributes (a failure has its traceback there); its trace id leads to the bring-up or the training phase"
        " that it belongs to.",
        [logs.records(logs.prefixed(chosen, semconv.HOST_NAME), most=500)],
    )
