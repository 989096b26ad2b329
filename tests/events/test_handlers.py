"""The registry's face: known names, an error that helps, and binding that reaches loggers already made."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator

import pytest

from torchelastic_otel import events
from torchelastic_otel.errors import UnknownDestinationError
from torchelastic_otel.events import Event, EventSource, handlers, record

EVENT = Event(name="saved", source=EventSource.WORKER)


class Kept(logging.Handler):
    """Keeps what it is handed."""

    def __init__(self) -> None:
        """Nothing kept yet."""
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.lines.append(record.getMessage())


def state(destination: str) -> tuple[object, ...]:
    """All that binding may touch."""
    logger = events._logger_of(destination)
    return (
        handlers._log_handlers.get(destination),
        events._events_loggers.get(destination),
        list(logger.handlers),
        logger.level,
        logger.propagate,
        logger.disabled,
    )


@pytest.fixture(params=["never_recorded", "recorded_before"])
def destination(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A known destination, with a handler of its own, before and after its logger was made and cached."""
    name = f"test_{request.node.name}"
    monkeypatch.setitem(handlers._log_handlers, name, Kept())
    if request.param == "recorded_before":
        monkeypatch.setenv("LOGLEVEL", "WARNING")
        record(EVENT, name)
    yield name
    handlers.unbind(name)
    events._events_loggers.pop(name, None)


def test_default_is_null() -> None:
    """As torch's."""
    assert handlers.get_logging_handler() is handlers.get_logging_handler("null")


def test_unknown_destination_says_what_is_known_and_what_to_do() -> None:
    """The name comes from a command line: the message is for the person who typed it."""
    with pytest.raises(UnknownDestinationError) as caught:
        handlers.get_logging_handler("kafka")
    assert str(caught.value) == (
        "unknown destination 'kafka'; known: console, dynamic_rendezvous, null;"
        " add one with torchelastic_otel.register_destination(name, *exporters), and torchelastic_otel.install()"
    )


def test_typing_error_is_answered_with_the_name_that_was_meant() -> None:
    """Most unknown names are typing errors."""
    with pytest.raises(UnknownDestinationError, match=r"\(did you mean 'console'\?\)"):
        record(EVENT, "consle")


def test_unknown_destination_is_a_key_error_of_that_key() -> None:
    """Whoever catches torch's error catches ours, and it crosses a process whole."""
    with pytest.raises(KeyError) as caught:
        record(EVENT, "kafka")
    assert caught.value.args == ("kafka",)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_unknown_destination_leaves_no_logger_behind() -> None:
    """Once it is registered it must work, and not be remembered as broken."""
    with pytest.raises(KeyError):
        record(EVENT, "later")
    kept = Kept()
    handlers.bind("later", kept)
    try:
        record(EVENT, "later")
        assert kept.lines == [EVENT.serialize()]
    finally:
        handlers.unbind("later")
    with pytest.raises(KeyError):
        record(EVENT, "later")


def test_bound_handler_takes_the_events_once_and_the_old_one_none(destination: str) -> None:
    """Changing torch's dict alone would reach nobody once the logger is cached."""
    old, kept = handlers.get_logging_handler(destination), Kept()
    handlers.bind(destination, kept)
    record(EVENT, destination)
    assert kept.lines == [EVENT.serialize()]
    assert handlers.get_logging_handler(destination) is kept
    assert isinstance(old, Kept)
    assert old.lines == []


@pytest.mark.parametrize("level", ["WARNING", "CRITICAL", "no level at all"])
def test_loglevel_does_not_silence_a_bound_handler(
    destination: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOGLEVEL=WARNING is common in jobs, and silences every event of torch."""
    kept = Kept()
    monkeypatch.setenv("LOGLEVEL", level)
    handlers.bind(destination, kept)
    record(EVENT, destination)
    assert kept.lines == [EVENT.serialize()]


def test_unbind_puts_everything_back(destination: str) -> None:
    """Uninstalling leaves the program as it was found, also after a second bind."""
    before = state(destination)
    handlers.bind(destination, Kept())
    record(EVENT, destination)
    handlers.bind(destination, Kept())
    record(EVENT, destination)
    assert state(destination) != before
    handlers.unbind(destination)
    assert state(destination) == before
    handlers.unbind(destination)
    assert state(destination) == before


def test_logger_that_a_logging_configuration_disabled_works_while_bound(destination: str) -> None:
    """``logging.config`` disables the loggers it finds, by default; a registered destination must not be mute."""
    logger = events._logger_of(destination)
    logger.disabled = True
    kept = Kept()
    handlers.bind(destination, kept)
    record(EVENT, destination)
    handlers.unbind(destination)
    assert kept.lines == [EVENT.serialize()]
    assert logger.disabled


def test_second_bind_takes_over(destination: str) -> None:
    """A destination that is registered anew must not record each event twice."""
    first, second = Kept(), Kept()
    handlers.bind(destination, first)
    handlers.bind(destination, second)
    handlers.bind(destination, second)
    record(EVENT, destination)
    assert (first.lines, second.lines) == ([], [EVENT.serialize()])


def test_handler_that_somebody_added_to_the_logger_stays(destination: str) -> None:
    """It is the user's, whether it came before the bind or after."""
    logger = events._logger_of(destination)
    early, late = Kept(), Kept()
    logger.addHandler(early)
    handlers.bind(destination, Kept())
    logger.addHandler(late)
    try:
        record(EVENT, destination)
        handlers.unbind(destination)
        assert early.lines == late.lines == [EVENT.serialize()]
        assert logger.handlers[-2:] == [early, late]
    finally:
        logger.removeHandler(early)
        logger.removeHandler(late)


def test_new_name_is_known_until_it_is_unbound() -> None:
    """Registering is how a name becomes known."""
    kept = Kept()
    handlers.bind("brand_new", kept)
    assert handlers.get_logging_handler("brand_new") is kept
    handlers.unbind("brand_new")
    assert "brand_new" not in handlers._log_handlers
    assert "brand_new" not in events._events_loggers
