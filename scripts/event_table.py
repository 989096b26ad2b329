"""The rows of ARCHITECTURE.md's table of events, from the code that reads them."""

from collections.abc import Iterator

from torchelastic_otel import semconv
from torchelastic_otel.model import normalise, rendezvous_messages
from torchelastic_otel.model.event import Severity


def rows() -> Iterator[tuple[str, str, str]]:
    """What torch says, the event's name, its severity."""
    seen: set[str] = set()
    for wording in rendezvous_messages.WORDINGS:
        if wording.event not in seen:
            seen.add(wording.event)
            yield f"rendezvous, `{wording.where}`", *_named(wording.event)
    yield "rendezvous, `T: text` of a call that raised", *_named(semconv.RENDEZVOUS_FAILED)
    yield "rendezvous, any other words", *_named(semconv.RENDEZVOUS_MESSAGE)
    for (source, state), event in normalise._STATES.items():
        yield f"{source} {state}", *_named(event)
    for words, event in normalise._WATCHDOG.items():
        yield f"watchdog, `{words}`", *_named(event)
    yield "any other event, or text", *_named(semconv.UNKNOWN_EVENT)


def _named(event: str) -> tuple[str, str]:
    return f"`{event}`", normalise._SEVERITIES.get(event, Severity.INFO).name
