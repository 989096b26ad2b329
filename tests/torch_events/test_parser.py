"""Torch's JSON to events: every message and event of every version, and everything that is neither."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel import semconv
from torchelastic_otel.model.event import ElasticEvent, Severity
from torchelastic_otel.model.text import MAX_BODY, MAX_STACKTRACE, MAX_VALUE
from torchelastic_otel.torch_events.parser import parse

DYNAMIC = "dynamic_rendezvous.py:DynamicRendezvousHandler."
EXECUTOR = "dynamic_rendezvous.py:_DistributedRendezvousOpExecutor."
NODE = "The node 'my_host_a_17_0'"


def read(event: dict[str, Any] | str, destination: str = "null") -> ElasticEvent:
    """The event of a text or of what the text says."""
    text = event if isinstance(event, str) else json.dumps(event)
    return parse(text, destination, time_ns=1_700_000_000_123_456_789, observed_ns=2)


def rendezvous(name: str, message: str, state: str = "RUNNING", **more: Any) -> dict[str, Any]:
    """A rendezvous event as torch 2.15 serialises it."""
    event: dict[str, Any] = {
        "name": name,
        "run_id": "job 'x'",
        "message": message,
        "hostname": "my_host_a",
        "pid": 17,
        "node_state": state,
        "master_endpoint": "",
        "rank": None,
        "local_id": 0,
        "error_trace": "",
    }
    return event | more


def status(state: str, source: str = "AGENT", inner: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An agent or worker event as torch 2.15 serialises it."""
    metadata: dict[str, Any] = {
        "run_id": "r",
        "global_rank": None,
        "group_rank": 1,
        "worker_id": None,
        "role": "default",
        "hostname": "my_host_a",
        "state": state,
        "total_run_time": 0,
        "rdzv_backend": "c10d",
        "raw_error": None,
        "metadata": json.dumps({"group_world_size": 2, "entry_point": "python"} | (inner or {})),
        "agent_restarts": 3,
        "duration_ms": None,
    }
    return {
        "name": f"torchelastic.worker.status.{state}",
        "source": source,
        "timestamp": 0,
        "metadata": metadata | more,
    }


RUN = "rendezvous 'job 'x''"
MESSAGES = [
    ("c10d_rendezvous_backend.py:_create_tcp_store", "INIT",
     "Process 5 hosts the TCP store for the C10d rendezvous backend.", "store_hosted", {}),
    (DYNAMIC + "next_rendezvous", "RUNNING", f"{NODE} attempts to join the next round of the {RUN}.",
     "join_attempted", {}),
    (DYNAMIC + "next_rendezvous", "RUNNING",
     f"{NODE} has joined round 3 of the {RUN} as rank 1 in a world of size 4.", "joined",
     {"rendezvous.round": 3, "group.rank": 1, "group.world_size": 4}),
    (EXECUTOR + "_add_to_participants", "RUNNING",
     f"{NODE} added itself to the participants of round 2 of the {RUN}. Pending sync.", "participant_added",
     {"rendezvous.round": 2, "rendezvous.intent": True}),
    (EXECUTOR + "_add_to_wait_list", "RUNNING",
     f"{NODE} added itself to the wait list of round 3 of the {RUN}. Pending sync.", "wait_list_added",
     {"rendezvous.round": 3, "rendezvous.intent": True}),
    (EXECUTOR + "_add_to_redundancy_list", "RUNNING",
     f"{NODE} added itself to the redundancy list of round 3 of the {RUN}. Pending sync.", "redundancy_list_added",
     {"rendezvous.round": 3, "rendezvous.intent": True}),
    (EXECUTOR + "_remove_from_participants", "RUNNING",
     f"{NODE} removed itself from the participants of round 2 of the {RUN}. Pending sync.", "participant_removed",
     {"rendezvous.round": 2, "rendezvous.intent": True}),
    (EXECUTOR + "_remove_from_wait_list", "RUNNING",
     f"{NODE} removed itself from the wait list of round 2 of the {RUN}. Pending sync.", "wait_list_removed",
     {"rendezvous.round": 2, "rendezvous.intent": True}),
    (EXECUTOR + "_remove_from_redundancy_list", "RUNNING",
     f"{NODE} removed itself from the redundant list of round 2 of the {RUN}. Pending sync.",
     "redundancy_list_removed", {"rendezvous.round": 2, "rendezvous.intent": True}),
    (EXECUTOR + "_remove_from_redundancy_list", "RUNNING",
     f"{NODE} removed itself from the redunant list of round 2 of the {RUN}. Pending sync.",
     "redundancy_list_removed", {"rendezvous.round": 2, "rendezvous.intent": True}),
    (EXECUTOR + "_mark_rendezvous_complete", "SUCCEEDED",
     f"{NODE} marked round 2 of the {RUN} as complete. Pending sync.", "completed",
     {"rendezvous.round": 2, "rendezvous.intent": True}),
    (EXECUTOR + "_mark_rendezvous_closed", "SUCCEEDED", f"{NODE} marked the {RUN} as closed. Pending sync.",
     "marked_closed", {"rendezvous.intent": True}),
    (EXECUTOR + "_keep_alive", "RUNNING",
     f"{NODE} updated its keep-alive heartbeat time for the {RUN}. Pending sync.", "keep_alive_updated",
     {"rendezvous.intent": True}),
    (EXECUTOR + "run", "RUNNING",
     f"{NODE} has successfully synced its local changes with other nodes in the {RUN}.", "state_synced",
     {"rendezvous.intent": False}),
    (EXECUTOR + "run", "RUNNING",
     f"{NODE} has a stale state and failed to sync its local changes with other nodes in the {RUN}.", "state_stale",
     {"rendezvous.intent": False}),
    (DYNAMIC + "_keep_alive", "RUNNING", f"{NODE} has sent a keep-alive heartbeat to the {RUN}.", "keep_alive_sent",
     {}),
    (DYNAMIC + "_keep_alive", "FAILED",
     f"{NODE} has failed to send a keep-alive heartbeat to the {RUN} due to an error of type m.E.",
     "keep_alive_failed", {"error.type": "E", "exception.type": "m.E"}),
    (DYNAMIC + "_close", "SUCCEEDED", f"{NODE} has closed the {RUN}.", "closed", {}),
    (DYNAMIC + "shutdown", "FAILED",
     f"{NODE} has failed to shutdown the {RUN} due to an error of type E.", "shutdown_failed",
     {"error.type": "E"}),
    *(
        (f"{file}:{where}", "FAILED", "RendezvousTimeoutError: ", "failed",
         {"error.type": "RendezvousTimeoutError", "exception.type": "RendezvousTimeoutError"})
        for file, where in [
            ("dynamic_rendezvous.py", "DynamicRendezvousHandler.next_rendezvous"),
            ("dynamic_rendezvous.py", "DynamicRendezvousHandler.is_closed"),
            ("dynamic_rendezvous.py", "DynamicRendezvousHandler.set_closed"),
            ("dynamic_rendezvous.py", "DynamicRendezvousHandler.num_nodes_waiting"),
            ("dynamic_rendezvous.py", "DynamicRendezvousHandler.shutdown"),
            ("dynamic_rendezvous.py", "create_handler"),
            ("c10d_rendezvous_backend.py", "create_backend"),
        ]
    ),
    ("dynamic_rendezvous.py:_BackendRendezvousStateHolder.sync", "RUNNING",
     "As part of the sync operation the node(s) 'a_1_0', 'b_c_2_0' have been removed from the"
     f" {RUN} since they had no heartbeat.", "nodes_removed", {"rendezvous.removed_nodes": ("a_1_0", "b_c_2_0")}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state", "message", "event", "facts"), MESSAGES)
def test_every_rendezvous_message_of_torch_is_its_own_event(
    name: str, state: str, message: str, event: str, facts: dict[str, Any]
) -> None:
    """The table of torch-events, section 3, with a run id that has quotes and a host that has underscores."""
    read_event = read(rendezvous(name, message, state))
    assert read_event.name == f"torchelastic.rendezvous.{event}"
    assert read_event.body == message
    for fact, value in facts.items():
        prefix = "" if fact.startswith(("error.", "exception.")) else "torchelastic."
        assert read_event.attributes[prefix + fact] == value
    assert read_event.attributes[semconv.RUN_ID] == "job 'x'"
    if message.startswith(NODE):
        assert read_event.attributes[semconv.NODE_ID] == "my_host_a_17_0"


STATUSES = [
    ("AGENT", "RENDEZVOUS", "torchelastic.agent.rendezvous_finished"),
    ("AGENT", "ASSIGN_WORKER_RANKS", "torchelastic.agent.ranks_assigned"),
    ("AGENT", "SUCCEEDED", "torchelastic.agent.succeeded"),
    ("AGENT", "FAILED", "torchelastic.agent.failed"),
    ("WORKER", "START", "torchelastic.worker.started"),
    ("WORKER", "SUCCEEDED", "torchelastic.worker.succeeded"),
    ("WORKER", "FAILED", "torchelastic.worker.failed"),
    ("WORKER", "TERMINATED", "torchelastic.worker.terminated"),
]


@pytest.mark.parametrize(("source", "state", "name"), STATUSES)
def test_every_agent_and_worker_event_of_torch_is_its_own_event(source: str, state: str, name: str) -> None:
    """The states of torch-events, section 4."""
    event = read(status(state, source))
    assert event.name == name
    assert event.attributes[semconv.RESTART_COUNT] == 3
    assert event.attributes[semconv.RENDEZVOUS_BACKEND] == "c10d"
    assert event.attributes[semconv.ENTRY_POINT] == "python"


@pytest.mark.parametrize(
    ("torch_name", "name"),
    [
        ("watchdog started", "torchelastic.watchdog.started"),
        ("watchdog stopped", "torchelastic.watchdog.stopped"),
        ("timer expired", "torchelastic.watchdog.timer_expired"),
        ("kill worker process", "torchelastic.watchdog.worker_killed"),
    ],
)
def test_every_watchdog_event_is_its_own_event(torch_name: str, name: str) -> None:
    """The watchdog's names are sentences (torch 2.2 to 2.15, FileTimerServer)."""
    event = read(status("RUNNING", inner={"worker_pid": "77", "scope_id": "slow"}) | {"name": torch_name})
    assert event.name == name
    assert event.attributes[semconv.WORKER_PID] == 77


def test_a_failed_worker_tells_exit_code_signal_and_where_it_was() -> None:
    """Who failed is what the person on call asks first; torch nests it two JSON strings deep."""
    inner = {"local_rank": [1], "role_rank": [5], "role_world_size": [8], "exit_code": [-9], "worker_pid": [4711]}
    event = read(status("FAILED", "WORKER", inner, global_rank=5, worker_id="4711", raw_error='{"message": "<NONE>"}'))
    attributes = event.attributes
    assert (attributes[semconv.WORKER_RANK], attributes[semconv.WORKER_LOCAL_RANK]) == (5, 1)
    assert (attributes[semconv.ROLE_RANK], attributes[semconv.ROLE_WORLD_SIZE]) == (5, 8)
    assert attributes[semconv.PROCESS_EXIT_CODE] == -9
    assert attributes[semconv.WORKER_SIGNAL] == attributes[semconv.ERROR_TYPE] == "SIGKILL"
    assert event.severity is Severity.ERROR
    assert event.body == "Worker rank 5 (pid 4711) failed by SIGKILL"


def test_a_workers_error_file_becomes_an_exception() -> None:
    """The message of an error file is a mapping, with the traceback beside it (torch 1.13 to 2.15)."""
    raw = json.dumps({"message": {"message": "ValueError: bad", "extraInfo": {"py_callstack": "Traceback\n..."}}})
    attributes = read(status("FAILED", "WORKER", {"exit_code": [1]}, raw_error=raw)).attributes
    assert attributes[semconv.EXCEPTION_TYPE] == attributes[semconv.ERROR_TYPE] == "ValueError"
    assert attributes[semconv.EXCEPTION_MESSAGE] == "bad"
    assert attributes[semconv.EXCEPTION_STACKTRACE] == "Traceback\n..."


@pytest.mark.parametrize(
    "raw", ["no json", '"a string"', '{"message": 3}', "[1, 2]", '{"message": {"message": "x y"}}']
)
def test_an_error_file_of_another_shape_loses_nothing_and_breaks_nothing(raw: str) -> None:
    """Users write error files of their own."""
    attributes = read(status("FAILED", "WORKER", raw_error=raw)).attributes
    assert str(attributes[semconv.EXCEPTION_MESSAGE])[:1] in raw


def test_an_agents_traceback_becomes_an_exception_and_the_event_is_fatal() -> None:
    """The last line at the margin names the exception, also of a chain, also with a message of several lines."""
    first = 'Traceback (most recent call last):\n  File "x", line 1, in f\na.b.FirstError: one\n\n'
    last = 'Traceback (most recent call last):\n  File "y", line 2, in g\n    h()\n    ~^^\nm.LastError: two\nthree\n'
    trace = first + "During handling of the above exception, another exception occurred:\n\n" + last
    event = read(status("FAILED", raw_error=trace))
    assert event.severity is Severity.FATAL
    assert event.attributes[semconv.EXCEPTION_TYPE] == "m.LastError"
    assert event.attributes[semconv.ERROR_TYPE] == "LastError"
    assert event.attributes[semconv.EXCEPTION_STACKTRACE] == trace


def test_no_exception_is_read_where_there_was_none() -> None:
    """``traceback.format_exc()`` outside a handler says ``NoneType: None``."""
    assert semconv.EXCEPTION_TYPE not in read(status("FAILED", raw_error="NoneType: None\n")).attributes


@pytest.mark.parametrize("duration", [10**400, float("inf"), float("nan")])
def test_a_duration_beyond_any_number_is_left_out(duration: float) -> None:
    """Torch's are milliseconds of a step; a raw event of any program is read, too."""
    event = status("SUCCEEDED")
    event["metadata"]["duration_ms"] = duration
    assert semconv.AGENT_STEP_DURATION not in read(event).attributes


def test_where_a_rendezvous_event_was_recorded_is_fully_qualified() -> None:
    """semconv: ``code.function.name`` is fully qualified; torch gives a file's base name."""
    attributes = read(rendezvous(DYNAMIC + "_close", f"{NODE} has closed the {RUN}.")).attributes
    module = "torch.distributed.elastic.rendezvous.dynamic_rendezvous"
    assert attributes[semconv.CODE_FUNCTION_NAME] == f"{module}.DynamicRendezvousHandler._close"
    assert attributes[semconv.CODE_FILE_PATH] == module.replace(".", "/") + ".py"


def test_other_words_of_a_known_place_pass_through_untouched() -> None:
    """A later torch may say it differently: exported as it is, never guessed at."""
    event = read(rendezvous(EXECUTOR + "run", f"{NODE} did something new in the {RUN}."))
    assert event.name == semconv.RENDEZVOUS_MESSAGE
    assert event.body == f"{NODE} did something new in the {RUN}."


def test_words_of_another_run_are_not_taken_for_this_one() -> None:
    """Messages are held against the event's own run id."""
    event = read(rendezvous(DYNAMIC + "_close", f"{NODE} has closed the rendezvous 'another'."))
    assert event.name == semconv.RENDEZVOUS_MESSAGE


def test_an_event_that_torch_does_not_define_passes_through_untouched() -> None:
    """A user's own events are theirs: the body is what was recorded, its metadata can be searched."""
    text = json.dumps({"name": "checkpoint", "source": "WORKER", "timestamp": 0, "metadata": {"step": 5, "x": None}})
    event = read(text)
    assert (event.name, event.body) == (semconv.UNKNOWN_EVENT, text)
    assert event.attributes[semconv.EVENT_NAME] == "checkpoint"
    assert event.attributes["torchelastic.event.metadata.step"] == 5


@pytest.mark.parametrize("text", ["", "hello", "[]", "null", '{"a": 1}', "[" * 5_000, '{"name": 1, "source": 2}'])
def test_what_is_no_event_at_all_is_kept_as_text(text: str) -> None:
    """Anything can be logged to a handler; nothing is lost, nothing crashes."""
    event = read(text)
    assert (event.name, event.body) == (semconv.UNKNOWN_EVENT, text)


def test_strings_are_bounded_and_valid_utf8() -> None:
    """Promise 8: one endless traceback must not fill a spool, one lone surrogate must not fail a batch."""
    trace = "x\n" * MAX_STACKTRACE + "ValueError: \ud800"
    event = read(rendezvous(DYNAMIC + "next_rendezvous", "E: " + "m" * 20_000, "FAILED", error_trace=trace))
    assert len(event.body) <= MAX_BODY
    assert len(str(event.attributes[semconv.EXCEPTION_STACKTRACE])) <= MAX_STACKTRACE
    for value in event.attributes.values():
        str(value).encode("utf-8")
        assert len(str(value)) <= max(MAX_VALUE, MAX_STACKTRACE)
    assert "characters cut" in event.body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=10,
)


@given(st.sampled_from(["rendezvous", "status"]), st.dictionaries(st.text(), JSON), st.data())
def test_no_field_of_any_type_or_size_breaks_it(kind: str, more: dict[str, Any], data: st.DataObject) -> None:
    """Old versions, other projects and users write fields of their own: normalise never raises (promise 1)."""
    base = (
        rendezvous(DYNAMIC + "next_rendezvous", "m", "FAILED") if kind == "rendezvous" else status("FAILED", "WORKER")
    )
    for key in data.draw(st.sets(st.sampled_from(sorted(base)))):
        base[key] = data.draw(JSON)
    if isinstance(base.get("metadata"), dict):
        for key in data.draw(st.sets(st.sampled_from(sorted(status("x")["metadata"])))):
            base["metadata"][key] = data.draw(JSON)
    event = read(json.dumps(base | more))
    assert ElasticEvent.from_json(event.to_json()).to_json() == event.to_json()
    for value in event.attributes.values():
        assert not isinstance(value, int) or abs(value) <= 1 << 63
