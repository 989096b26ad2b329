"""The rows of docs/reference/attributes.md: each attribute of semconv.py with its type and meaning.

Guarantee: every attribute that semconv.py defines has exactly one entry; an attribute without one is an error.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from torchelastic_otel import semconv

SOURCE = Path(semconv.__file__)

MEANINGS: dict[str, tuple[str, str]] = {
    # OpenTelemetry's
    "CODE_FILE_PATH": (
        "string",
        "file of the code that emitted a rendezvous event; of a failure, of the program's line",
    ),
    "CODE_FUNCTION_NAME": ("string", "function that emitted a rendezvous event; of a failure, of the program's line"),
    "CODE_LINE_NUMBER": ("int", "the line where a worker raised an exception, exited or was stopped"),
    "CODE_STACKTRACE": ("string", "the stacks of a worker's threads when it crashed or was stopped"),
    "ERROR_TYPE": ("string", "type of a failure: the exception's class, `exit`, a signal, `uninterruptible_sleep`"),
    "EXCEPTION_MESSAGE": ("string", "message of the exception"),
    "EXCEPTION_STACKTRACE": ("string", "traceback"),
    "EXCEPTION_TYPE": ("string", "class of the exception"),
    "HOST_NAME": ("string", "resource: the host"),
    "LOG_RECORD_UID": ("string", "the same at each delivery of a record"),
    "PROCESS_EXIT_CODE": ("int", "exit code of a worker"),
    "PROCESS_PID": ("int", "resource: the agent's process"),
    "SERVICE_INSTANCE_ID": ("string", "resource: one agent process"),
    "SERVICE_NAME": ("string", "resource: `torchrun` by default"),
    # job, node, role
    "RUN_ID": ("string", "`--rdzv-id`"),
    "RUN_NONCE": ("string", "32 hex digits that the agents of one run agree on; run ids repeat, this does not"),
    "NODE_ID": ("string", "torch's id of the node: host, pid and a number"),
    "NODE_STATE": ("string", "torch's state of the node in the rendezvous"),
    "NODE_ADDRESS": ("string", "address of the node, as torch has it"),
    "NODES_MIN": ("int", "lower bound of `--nnodes`"),
    "NODES_MAX": ("int", "upper bound of `--nnodes`"),
    "LOCAL_WORLD_SIZE": ("int", "workers on this node"),
    "GROUP_RANK": ("int", "rank of the node"),
    "GROUP_WORLD_SIZE": ("int", "number of nodes"),
    "ROLE_NAME": ("string", "torch's role of the workers"),
    "ROLE_RANK": ("int", "rank among the workers of the role"),
    "ROLE_WORLD_SIZE": ("int", "workers of the role"),
    "ENTRY_POINT": ("string", "the program that the workers run"),
    "HOSTS_STORE": ("boolean", "whether this agent's process hosts the job's store"),
    # rendezvous
    "RENDEZVOUS_ROUND": ("int", "the round, from 0"),
    "RENDEZVOUS_BACKEND": ("string", "`c10d`, `etcd`, `static` ..."),
    "RENDEZVOUS_INTENT": ("boolean", "whether the change is pending: not yet visible to other nodes"),
    "RENDEZVOUS_COMMITTED": ("string[]", "changes that a state sync committed"),
    "RENDEZVOUS_ROLLED_BACK": ("string[]", "changes that a conflict rolled back"),
    "RENDEZVOUS_PARTICIPANTS": ("string[]", "the nodes that joined, a bounded list"),
    "RENDEZVOUS_PRESENT": ("int", "number of nodes that are present, also on the wait list"),
    "RENDEZVOUS_MISSING": ("int", "number of nodes that are missing"),
    "RENDEZVOUS_MISSING_NODES": ("string[]", "missing nodes of the round before, with their last rank, a bounded list"),
    "RENDEZVOUS_MISSING_NODE_IDS": ("string[]", "the same nodes, each as `last group rank:node id`"),
    "RENDEZVOUS_WAITED": ("double, s", "time since the node began to wait"),
    "RENDEZVOUS_LAST_JOINER": ("string", "the node that joined last"),
    "NODES_REMOVED_IDS": ("string[]", "nodes that were removed from the rendezvous"),
    "ROUND_BEGAN": ("int, ns", "begin of the round's bring-up on any node, since the epoch"),
    "ROUND_DURATION": ("double, s", "duration of the bring-up"),
    "WRITER": ("boolean", "whether this agent is the job reporter of the round"),
    # agent
    "AGENT_ID": ("string", "32 hex digits for each agent; a process may run several, one after the other"),
    "AGENT_STEP_DURATION": ("double, s", "duration of a step of the agent, measured by torch"),
    "AGENT_RUN_TIME": ("int, s", "run time of the agent, measured by torch"),
    "AGENT_OUTCOME": ("string", "how the agent ended"),
    "PHASE": ("string", "the phase that begins"),
    "PHASE_PREVIOUS": ("string", "the phase before it"),
    "PHASE_DURATION": ("double, s", "duration of the phase before it"),
    "PEER_NODE_ID": ("string", "another node, by torch's id"),
    "PEER_GROUP_RANK": ("int", "rank of another node"),
    "PEER_LAST_HEARTBEAT": ("string", "last heartbeat of another node, ISO 8601 in UTC"),
    "PEER_HEARTBEAT_AGE": ("double, s", "time since the last heartbeat of another node"),
    # workers and failures
    "WORKER_RANK": ("int", "rank of the worker"),
    "WORKER_LOCAL_RANK": ("int", "rank of the worker on its node"),
    "WORKER_PID": ("int", "process of the worker"),
    "WORKER_PIDS": ("string[]", "`local rank:global rank:pid` for each worker"),
    "WORKER_SIGNAL": ("string", "signal that ended the worker"),
    "WORLD_SIZE": ("int", "worker processes of the whole job, in a worker's resource"),
    "FAILURE_KIND": ("string", "`exception`, `exit`, `signal`, `hang`, `out_of_memory`, `uninterruptible_sleep`"),
    "FAILURE_ROLE": ("string", "`cause` or `victim`"),
    "FAILURE_TIME_ERROR": ("double, s", "the failure may have happened earlier than its time, by this much"),
    "FAILURE_EVIDENCE": (
        "string",
        "what decided that it is the cause: `only_failure`, `earliest`, `others_waited`, `stack_at_stop`, `all_waited`",
    ),
    "FAILURE_EXPLANATION": ("string", "what an exit code means, or why the kernel killed the process; one sentence"),
    "WORKER_STDERR": ("string", "the end of its standard error, at most 8 KiB, if nothing else has the reason"),
    "WORKER_IN_COLLECTIVE": ("boolean", "whether its main thread called or awaited other ranks when it was stopped"),
    "FAILURE_AMBIGUOUS": ("boolean", "whether the error bound of another failure reaches back to it"),
    "WATCHDOG_REASON": ("string", "the timer of the watchdog that acted"),
    # restarts
    "RESTART_COUNT": ("int", "restarts caused by this agent's own workers"),
    "RESTARTS_MAX": ("int", "`--max-restarts`"),
    "RESTART_REASON": ("string", "`worker_failure`, `membership_change`, `node_lost`, `node_left`, `unknown`"),
    "RESTART_INDEX": ("int", "number of the restart in the run, from 1"),
    "RESTART_TRIGGER": ("string", "what this agent observed first"),
    "RESTART_AGREED": ("boolean", "whether all agents agreed; `false` is this agent's local view"),
    "RESTART_PHASE": ("string", "of a metric: the phase of the restart"),
    "RESTART_DURATION": ("double, s", "duration of the restart"),
    "RESTART_PHASE_DURATION": ("double, s", "duration of one phase of the restart"),
    "CAUSE": (
        "various",
        "prefix of the agreed cause: `.host`, `.node.id`, `.group.rank`, `.rank`, `.local_rank`, `.pid`, `.exit_code`,"
        " `.signal`, `.error_type`, `.message`, `.time`, `.time_error`",
    ),
    # membership
    "MEMBERSHIP_JOINED": ("string[]", "nodes that joined since the round before"),
    "MEMBERSHIP_LEFT": ("string[]", "nodes that left"),
    "MEMBERSHIP_LOST": ("string[]", "nodes that were lost"),
    "MEMBERSHIP_CHANGE": ("string", "of a metric: `joined`, `left`, `lost`"),
    # inference, and the user's own events
    "INFERRED": ("boolean", "`true`: the bridge inferred this event; torch emitted none"),
    "INFERRED_FROM": (
        "string",
        "the source of the observation: `pidfd`, `error_file`, `poll`, `result`, `hook`, `rendezvous_state`, `store`,"
        " `own_view`, `adoption`",
    ),
    "TIME_STATE": ("string", "of a metric: the state that the time was spent in"),
    "EVENT_NAME": ("string", "name of an event that torch does not define"),
    "EVENT_SOURCE": ("string", "source of an event that torch does not define"),
    "EVENT_METADATA": ("various", "prefix of the metadata of an event that torch does not define"),
    # metrics
    "OUTCOME_OF_RENDEZVOUS": ("string", "of a metric: `succeeded`, `failed`"),
    "EXPORT_DESTINATION": ("string", "of a metric: the exporter"),
    "EXPORT_SIGNAL": ("string", "of a metric: `logs`, `traces`, `metrics`"),
}


def constants() -> dict[str, str]:
    """The attributes of semconv.py: constant to name."""
    found: dict[str, str] = {}
    kind = ""
    for line in SOURCE.read_text().splitlines():
        kind = line.removeprefix("# --- ") if line.startswith("# --- ") else kind
        match = re.match(r"([A-Z]\w+): Final = ", line)
        if match and not kind.startswith(("events", "spans")) and not match[1].startswith("METRIC_") and kind:
            found[match[1]] = getattr(semconv, match[1])
    return found


def rows() -> Iterator[tuple[str, str, str]]:
    """Each attribute: name, type with its unit, meaning."""
    known = constants()
    if missing := known.keys() ^ MEANINGS.keys():
        raise SystemExit(f"scripts/attribute_table.py and semconv.py differ in {', '.join(sorted(missing))}")
    for constant, name in sorted(known.items(), key=lambda pair: pair[1]):
        yield f"`{name}`", *MEANINGS[constant]
