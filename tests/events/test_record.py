"""Recording: where events go, how they are named, and that every function can be patched by its name."""

from __future__ import annotations

import doctest
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from torchelastic_otel import events
from torchelastic_otel.events import Event, EventSource, NodeState, RdzvEvent, handlers
from torchelastic_otel.events.caller import method_name

EVENT = Event(name="saved", source=EventSource.WORKER, metadata={"percent": "100%s"})


class Kept(logging.Handler):
    """Keeps the records it is handed."""

    def __init__(self) -> None:
        """Nothing kept yet."""
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.records.append(record)

    @property
    def only(self) -> RdzvEvent:
        """The one rendezvous event that was recorded."""
        (record,) = self.records
        return RdzvEvent.deserialize(record.getMessage())


@pytest.fixture
def rendezvous() -> Iterator[Kept]:
    """A handler that takes the rendezvous events."""
    kept = Kept()
    handlers.bind("dynamic_rendezvous", kept)
    yield kept
    handlers.unbind("dynamic_rendezvous")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A destination of one's own, never recorded to."""
    monkeypatch.delenv("LOGLEVEL", raising=False)
    monkeypatch.setitem(handlers._log_handlers, "fresh", Kept())
    yield "fresh"
    events._logger_of("fresh").handlers = []
    events._events_loggers.pop("fresh", None)


@pytest.mark.torch_unloaded
def test_nothing_is_configured_by_an_import() -> None:
    """The import is free of torch and the SDK, and its handlers are torch's defaults."""
    program = """if True:
        import logging, sys
        from torchelastic_otel.events import _events_loggers, get_logging_handler, handlers
        assert type(get_logging_handler()) is type(get_logging_handler("null")) is logging.NullHandler
        assert type(get_logging_handler("dynamic_rendezvous")) is logging.NullHandler
        assert type(get_logging_handler("console")) is logging.StreamHandler
        assert get_logging_handler("console").stream is sys.stderr
        assert sorted(handlers._log_handlers) == ["console", "dynamic_rendezvous", "null"]
        assert _events_loggers == {}
        assert not {"torch", "opentelemetry.sdk"} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_console_writes_the_json_to_standard_error() -> None:
    """A person sees the events with one argument."""
    program = """if True:
        from torchelastic_otel.events import Event, EventSource, record
        record(Event("saved", EventSource.WORKER), destination="console")
        record(Event("dropped", EventSource.WORKER))
    """
    environment = {**os.environ, "LOGLEVEL": "INFO"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert Event.deserialize(done.stderr) == Event("saved", EventSource.WORKER)
    assert done.stdout == ""


@pytest.mark.parametrize("function", [events, events.construct_and_record_rdzv_event])
def test_examples_of_the_docstrings_run(function: object) -> None:
    """Torch's example fails for whoever tries it."""
    examples = [each for each in doctest.DocTestFinder(recurse=False).find(function, "example") if each.examples]
    assert examples
    runner = doctest.DocTestRunner()
    assert [runner.run(each).failed for each in examples] == [0]


def test_logger_is_made_once_with_the_handler_of_the_destination(fresh: str) -> None:
    """Making it again would record every event twice."""
    logger = events._get_or_create_logger(fresh)
    assert logger.handlers == [handlers._log_handlers[fresh]]
    assert events._get_or_create_logger(fresh) is logger is events._events_loggers[fresh]


def test_logger_stands_alone(fresh: str) -> None:
    """An event must not turn up in the program's own log, nor share a logger with torch's package."""
    logger = events._get_or_create_logger(fresh)
    assert not logger.propagate
    assert logger.name != f"torchelastic-events-{fresh}"


@pytest.mark.parametrize(("level", "number"), [(None, logging.INFO), ("WARNING", logging.WARNING)])
def test_unbound_destination_obeys_loglevel_as_in_torch(
    fresh: str, level: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever used it to silence the console still can."""
    if level:
        monkeypatch.setenv("LOGLEVEL", level)
    events.record(EVENT, fresh)
    kept = handlers._log_handlers[fresh]
    assert isinstance(kept, Kept)
    assert len(kept.records) == (number == logging.INFO)
    assert events._get_or_create_logger(fresh).level == number


def test_event_arrives_as_json_at_info(fresh: str) -> None:
    """Handlers parse the message: nothing may be formatted into it."""
    events.record(EVENT, fresh)
    kept = handlers._log_handlers[fresh]
    assert isinstance(kept, Kept)
    (record,) = kept.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, EVENT.serialize())


def test_anything_that_serializes_can_be_recorded(rendezvous: Kept, fresh: str) -> None:
    """Torch's own events are of other classes than ours."""

    class Foreign:
        def serialize(self) -> str:
            return '{"foreign": true}'

    foreign: Any = Foreign()
    events.record(foreign, fresh)
    events.record_rdzv_event(foreign)
    kept = handlers._log_handlers[fresh]
    assert isinstance(kept, Kept)
    assert [each.getMessage() for each in (*kept.records, *rendezvous.records)] == ['{"foreign": true}'] * 2


def test_every_field_arrives(rendezvous: Kept) -> None:
    """What the caller knows must not be looked up."""
    events.construct_and_record_rdzv_event(
        "run", "joins", NodeState.SUCCEEDED, "Handler.join", "node-1", 7, "node-0:29400", 4, 3
    )
    assert rendezvous.only == RdzvEvent(
        name="test_record.py:Handler.join",
        run_id="run",
        message="joins",
        hostname="node-1",
        pid=7,
        node_state=NodeState.SUCCEEDED,
        master_endpoint="node-0:29400",
        rank=3,
        local_id=4,
        error_trace="",
    )


def test_what_the_caller_leaves_out_is_this_process(rendezvous: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event without a host and a process cannot be attributed."""
    monkeypatch.setattr(socket, "getfqdn", lambda: "host.example")  # a resolver may answer once and time out once
    events.construct_and_record_rdzv_event("run", "message", NodeState.RUNNING)
    event = rendezvous.only
    assert (event.hostname, event.pid) == ("host.example", os.getpid())
    assert (event.master_endpoint, event.rank, event.local_id, event.error_trace) == ("", None, None, "")


def test_event_without_a_name_is_named_after_its_caller(rendezvous: Kept) -> None:
    """File and function are what tells the messages apart."""
    events.construct_and_record_rdzv_event("run", "message", NodeState.RUNNING)
    assert rendezvous.only.name == ("test_record.py:test_event_without_a_name_is_named_after_its_caller")


def test_record_wrapper_names_the_method_that_called_it(rendezvous: Kept) -> None:
    """Torch records through such a wrapper; the wrapper's own name would say nothing."""

    class Node:
        def _record(self, message: str) -> None:
            events.construct_and_record_rdzv_event(
                name=f"{type(self).__name__}.{method_name()}",
                run_id="run",
                message=message,
                node_state=NodeState.RUNNING,
            )

        def join(self) -> None:
            self._record("joins")

    Node().join()
    assert rendezvous.only.name == "test_record.py:Node.join"


def test_event_from_a_stack_without_a_caller_has_no_file(rendezvous: Kept) -> None:
    """A program that embeds Python may call without any frame."""
    with patch("torchelastic_otel.events.caller.caller", return_value=("no_file", "")):
        events.construct_and_record_rdzv_event("run", "message", NodeState.RUNNING)
        events.construct_and_record_rdzv_event("run", "message", NodeState.RUNNING, name="given")
    names = [json.loads(each.getMessage())["name"] for each in rendezvous.records]
    assert names == ["no_file:", "no_file:given"]


@pytest.mark.parametrize("state", [NodeState.FAILED, "FAILED"])
def test_failure_carries_the_exception_being_handled(rendezvous: Kept, state: NodeState) -> None:
    """The traceback is all that says why; a torch member is a string like any other."""
    try:
        raise RuntimeError("the store is gone")
    except RuntimeError:
        events.construct_and_record_rdzv_event("run", "failed", state)
    trace = rendezvous.only.error_trace
    assert trace.startswith("Traceback")
    assert trace.endswith("RuntimeError: the store is gone\n")


def test_event_that_is_no_failure_carries_no_exception(rendezvous: Kept) -> None:
    """Torch retries inside of except blocks: what it says there is no error."""
    try:
        raise RuntimeError("tried again")
    except RuntimeError:
        events.construct_and_record_rdzv_event("run", "retries", NodeState.RUNNING)
    assert rendezvous.only.error_trace == ""


def test_unbound_rendezvous_costs_no_look_up() -> None:
    """A job without a destination pays for the question alone: no frame, no DNS, no event."""
    with (
        patch("torchelastic_otel.events.caller.caller") as caller,
        patch("torchelastic_otel.events.socket.getfqdn") as getfqdn,
        patch("torchelastic_otel.events.record_rdzv_event") as record,
    ):
        events.construct_and_record_rdzv_event("run", "message", NodeState.RUNNING)
    assert [each.called for each in (caller, getfqdn, record)] == [False, False, False]


def test_functions_are_found_by_name_at_each_call() -> None:
    """Users' tests patch them as they patch torch's."""
    module = "torchelastic_otel.events"
    with (
        patch(f"{module}.get_logging_handler", return_value=Kept()) as get_handler,
        patch(f"{module}.record_rdzv_event") as record,
    ):
        events.construct_and_record_rdzv_event("run", "message", NodeState.RUNNING)
    get_handler.assert_called_once_with("dynamic_rendezvous")
    assert record.call_args.args[0].message == "message"

    with patch(f"{module}._get_or_create_logger") as logger:
        events.record(EVENT, "anywhere")
        events.record_rdzv_event(record.call_args.args[0])
    assert [each.args for each in logger.call_args_list] == [("anywhere",), ("dynamic_rendezvous",)]

    handler = logging.NullHandler()
    with (
        patch(f"{module}.get_logging_handler", return_value=handler),
        patch.dict(f"{module}._events_loggers"),
    ):
        made = events._get_or_create_logger("patched")
        assert made.handlers == [handler]
    assert "patched" not in events._events_loggers
    made.removeHandler(handler)
