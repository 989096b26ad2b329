"""Ours against the installed torch: same surface, same JSON, each other's objects."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import socket
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip(
    "torch.distributed.elastic.events",
    reason="parity with torch is NOT tested here: pip install 'torchelastic-otel[torch]' (or torch) and run again",
)

from torch.distributed.elastic import events as theirs
from torch.distributed.elastic.events import api as their_api
from torch.distributed.elastic.events import handlers as their_handlers

from torchelastic_otel import events as ours
from torchelastic_otel.events import api as our_api
from torchelastic_otel.events import handlers as our_handlers

pytestmark = pytest.mark.torch

FUNCTIONS = ["_get_or_create_logger", "construct_and_record_rdzv_event", "record", "record_rdzv_event"]


def surface(function: Callable[..., Any]) -> list[tuple[str, Any, Any, str]]:
    """Name, kind, default and annotation of each parameter; classes by name, for ours are not theirs."""
    return [
        (each.name, each.kind, each.default, inspect.formatannotation(each.annotation).rsplit(".", 1)[-1])
        for each in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_the_signature_of_torchs(name: str) -> None:
    """One changed import must be enough, by position and by keyword."""
    assert surface(getattr(ours, name)) == surface(getattr(theirs, name))


def test_get_logging_handler_has_the_signature_and_the_defaults_of_torchs() -> None:
    """The registry's face is found in both places, as in torch."""
    assert ours.get_logging_handler is our_handlers.get_logging_handler
    signature, expected = (
        inspect.signature(each, eval_str=True)
        for each in (our_handlers.get_logging_handler, their_handlers.get_logging_handler)
    )
    assert signature == expected
    assert list(our_handlers._log_handlers) == ["console", "dynamic_rendezvous", "null"]
    assert set(our_handlers._log_handlers) <= set(their_handlers._log_handlers)


@pytest.mark.parametrize("modules", [(ours, theirs), (our_api, their_api)], ids=["events", "api"])
def test_every_name_that_torch_defines_is_there(modules: tuple[ModuleType, ModuleType]) -> None:
    """A name that a newer torch adds fails here first."""
    our_module, their_module = modules
    defined = {
        name
        for name, value in vars(their_module).items()
        if getattr(value, "__module__", "").startswith(theirs.__name__)
        or name in {"_events_loggers", "api", "handlers"}
    }
    assert defined
    assert defined <= set(vars(our_module))
    assert our_module.EventMetadataValue == their_module.EventMetadataValue


def test_api_exports_what_torchs_exports() -> None:
    """A star import brings the same names."""
    assert set(our_api.__all__) == set(their_api.__all__)


@pytest.mark.parametrize("name", ["Event", "RdzvEvent"])
def test_class_has_the_fields_of_torchs(name: str) -> None:
    """Names, order, types and defaults decide the JSON and every constructor call."""

    def described(kind: Any) -> list[tuple[Any, ...]]:
        return [
            (each.name, getattr(each.type, "__name__", str(each.type)), each.default, each.default_factory)
            for each in dataclasses.fields(kind)
        ]

    our_class, their_class = getattr(ours, name), getattr(theirs, name)
    assert described(our_class) == described(their_class)
    assert surface(our_class) == surface(their_class)
    for method in ("serialize", "deserialize", "__str__"):
        assert surface(getattr(our_class, method)) == surface(getattr(their_class, method))
    assert (our_class.__hash__ is None) is (their_class.__hash__ is None)


@pytest.mark.parametrize("name", ["EventSource", "NodeState"])
def test_members_equal_torchs_in_order(name: str) -> None:
    """A comparison with either package's member must come out the same."""
    our_enum, their_enum = getattr(ours, name), getattr(theirs, name)
    assert [(each.name, each.value) for each in our_enum] == [(each.name, each.value) for each in their_enum]
    for mine, torchs in zip(our_enum, their_enum, strict=True):
        assert mine == torchs
        assert torchs == mine
        assert hash(mine) == hash(torchs)
        assert str(mine) == str(torchs)
        assert f"{mine}" == f"{torchs}"


EVENTS: list[dict[str, Any]] = [
    {"name": "", "source": "AGENT"},
    {"name": "saved", "source": "WORKER", "timestamp": 1_700_000_000_000},
    {"name": 'quo"te\n\u2028', "source": "AGENT", "metadata": {"a": None, "b": True, "c": 1.0, "d": 1e300, "é": "😀"}},
    {"name": "\ud800", "source": "AGENT", "metadata": {"nan": float("nan"), "inf": float("inf")}},
    {"name": "nested", "source": "WORKER", "metadata": {"metadata": '{"local_rank": [0]}', "global_rank": -1}},
]
RDZV_EVENTS: list[dict[str, Any]] = [
    {"name": "f.py:g", "run_id": "run", "message": "m", "hostname": "h", "pid": 1, "node_state": "INIT"},
    {
        "name": "f.py:é",
        "run_id": "",
        "message": "The node 'a_1_0' …",
        "hostname": "h",
        "pid": 2**40,
        "node_state": "FAILED",
        "master_endpoint": "[::1]:29400",
        "rank": 0,
        "local_id": 3,
        "error_trace": "Traceback\n",
    },
]


def of(package: Any, fields: dict[str, Any]) -> Any:
    """The event of a package that has these fields, the enum members being that package's."""
    if "source" in fields:
        return package.Event(**{**fields, "source": package.EventSource[fields["source"]]})
    return package.RdzvEvent(**{**fields, "node_state": package.NodeState[fields["node_state"]]})


@pytest.mark.parametrize("fields", EVENTS + RDZV_EVENTS)
def test_json_is_the_same_byte_for_byte_and_either_reads_the_others(fields: dict[str, Any]) -> None:
    """A stream does not tell which of the two wrote it."""
    mine, torchs = of(ours, fields), of(theirs, fields)
    line = torchs.serialize()
    assert mine.serialize() == str(mine) == str(torchs) == line
    assert type(mine).deserialize(line).serialize() == line
    assert type(torchs).deserialize(mine.serialize()).serialize() == line
    assert type(mine).deserialize(torchs).serialize() == line
    assert type(type(mine).deserialize(torchs)) is type(mine)


@pytest.mark.parametrize("fields", EVENTS[:1] + RDZV_EVENTS[:1])
def test_torchs_member_in_our_event_changes_nothing(fields: dict[str, Any]) -> None:
    """Programs that import half from torch and half from us are to be expected."""
    mixed, torchs = of(ours, fields), of(theirs, fields)
    enum_field = "source" if "source" in fields else "node_state"
    setattr(mixed, enum_field, getattr(torchs, enum_field))
    assert mixed.serialize() == torchs.serialize()
    assert mixed == of(ours, fields)


@settings(max_examples=50)
@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.floats() | st.booleans() | st.none()))
def test_any_event_is_written_as_torch_writes_it(name: str, metadata: dict[str, Any]) -> None:
    """The table above holds what we thought of; this what we did not."""
    fields = {"name": name, "source": "AGENT", "metadata": metadata}
    assert of(ours, fields).serialize() == of(theirs, fields).serialize()


class Kept(logging.Handler):
    """Keeps the messages it is handed."""

    def __init__(self) -> None:
        """Nothing kept yet."""
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(record.getMessage())


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Kept, Kept]]:
    """Handlers on both packages' rendezvous destination: ours bound, torch's put where its code finds it."""
    mine, torchs = Kept(), Kept()
    logger = logging.getLogger("torchelastic-events-dynamic_rendezvous")
    found = (list(logger.handlers), logger.level, logger.propagate)
    monkeypatch.delenv("LOGLEVEL", raising=False)
    monkeypatch.setitem(their_handlers._log_handlers, "dynamic_rendezvous", torchs)
    monkeypatch.setattr(theirs, "_events_loggers", {})
    logger.handlers = []
    our_handlers.bind("dynamic_rendezvous", mine)
    yield mine, torchs
    our_handlers.unbind("dynamic_rendezvous")
    logger.handlers, logger.propagate = found[0], found[2]
    logger.setLevel(found[1])


CALLS: list[dict[str, Any]] = [
    {},
    {"name": "Handler.join", "hostname": "h", "pid": 3, "master_endpoint": "e", "local_id": 0, "rank": 0},
    {"name": "", "hostname": "", "pid": 0},
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("state", ["INIT", "RUNNING", "SUCCEEDED", "FAILED"])
@pytest.mark.parametrize("handling", [False, True])
def test_recorded_rendezvous_event_is_torchs_byte_for_byte(
    kept: tuple[Kept, Kept], call: dict[str, Any], state: str, handling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File, function, host, process and traceback are found out in another way, and come out the same."""
    monkeypatch.setattr(socket, "getfqdn", lambda: "host.example")  # a resolver may answer once and time out once

    def both() -> None:
        for package in (ours, theirs):
            package.construct_and_record_rdzv_event("run", "message", theirs.NodeState[state], **call)

    if handling:
        try:
            raise RuntimeError("gone")
        except RuntimeError:
            both()
    else:
        both()
    mine, torchs = kept
    assert mine.lines == torchs.lines
    assert len(mine.lines) == 1


def test_torchs_own_method_name_in_a_wrapper_names_the_same_method(kept: tuple[Kept, Kept]) -> None:
    """The wrapper of torch's docstring, with torch's helper and with ours."""
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import get_method_name

    from torchelastic_otel.events.caller import method_name

    class Node:
        def _record(self, package: Any, find: Callable[[], str]) -> None:
            package.construct_and_record_rdzv_event(
                name=f"{type(self).__name__}.{find()}", run_id="run", message="m", node_state=ours.NodeState.RUNNING
            )

        def join(self) -> None:
            self._record(ours, method_name)
            self._record(theirs, get_method_name)

    Node().join()
    mine, torchs = kept
    assert mine.lines == torchs.lines
    assert ":Node.join" in mine.lines[0]


def test_events_of_both_packages_are_recorded_once_each(kept: tuple[Kept, Kept]) -> None:
    """Were the two to share a logger, every event would arrive at both handlers."""
    mine, torchs = kept
    event = of(theirs, RDZV_EVENTS[0])
    ours.record_rdzv_event(event)
    assert (mine.lines, torchs.lines) == ([event.serialize()], [])
    theirs.record_rdzv_event(of(ours, RDZV_EVENTS[0]))
    assert (mine.lines, torchs.lines) == ([event.serialize()], [event.serialize()])
