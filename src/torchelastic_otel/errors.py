"""Every exception that this package raises, below one base class.

Guarantees: each one is an :class:`Exception` whose ``str()`` is one line for a person. Importing this costs nothing:
torch's main thread does.
"""

from __future__ import annotations

from collections.abc import Iterable


class TorchelasticOtelError(Exception):
    """Base class of all errors of torchelastic-otel."""


# --- configuration


class UnknownDestinationError(TorchelasticOtelError, KeyError):
    """A destination or an exporter is not known. A ``KeyError``, as torch raises, whose ``str()`` is a sentence.

    Attributes:
        destination: The name that was given; also ``args[0]``, as in any ``KeyError``.
        known: The names that are allowed, sorted.
        what: What the name is of.
    """

    def __init__(self, destination: str, known: Iterable[str] = (), what: str = "destination") -> None:
        super().__init__(destination)
        self.destination = destination
        self.known = tuple(sorted(known))
        self.what = what

    def __reduce__(self) -> tuple[type[UnknownDestinationError], tuple[str, tuple[str, ...], str]]:
        return type(self), (self.destination, self.known, self.what)

    def __str__(self) -> str:
        """What was given, what is known and what to do."""
        import difflib  # late: this module is imported on torch's main thread

        near = difflib.get_close_matches(str(self.destination), self.known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return (
            f"unknown {self.what} {self.destination!r}{hint}; known: {', '.join(self.known)};"
            " add one with torchelastic_otel.register_destination(name, *exporters), and torchelastic_otel.install()"
        )


class ExporterError(TorchelasticOtelError):
    """An exporter cannot be used.

    Attributes:
        name: Its name, as it was given.
        why: What is wrong and what is allowed, one line.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"exporter {name!r}: {why}")
        self.name = name
        self.why = why


class IncompatibleTorchError(TorchelasticOtelError):
    """This torch does not have what a hook needs."""


# --- the spool


class SpoolError(TorchelasticOtelError):
    """A call on the spool failed; nothing of the call is done."""


class SpoolCorruptError(SpoolError):
    """The file is not a spool, or is damaged."""


class SpoolTooSmallError(SpoolError):
    """The rows are larger than one ``append`` to this spool accepts; the spool itself is intact."""


class OldSpoolError(SpoolError):
    """The spool was written by an older version with another schema."""


class SpoolGoneError(SpoolError):
    """The spool does not exist any more, under any of its names."""


class SpoolUnavailableError(TorchelasticOtelError):
    """The spool directory cannot be used; the message gives the reason and the remedy."""


# --- commands


class CommandError(TorchelasticOtelError):
    """A command cannot run as requested; shown as one line on stderr, without a traceback.

    Attributes:
        exit_code: The exit status of the command.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnreadableError(TorchelasticOtelError):
    """The content of a file contradicts its first bytes."""


class NotAnEventError(TorchelasticOtelError, ValueError):
    """A line of a file is JSON, and not an event."""


class CannotRunError(TorchelasticOtelError):
    """The demonstration cannot run as requested."""


class BadRequestError(TorchelasticOtelError):
    """The OTLP receiver rejects a request.

    Attributes:
        status: The HTTP status of the response.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
