"""The interface of a command: ``prepare_parser`` and ``run``; its docstring is its help, its class name its name."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from typing import ClassVar

PROGRAM = "torchelastic-otel"


class Command:
    """What all commands share.

    Attributes:
        exit_codes: Each exit status and its meaning, for the help.
        examples: Lines for the help.
        verbatim: Whether the arguments after the name belong to another program: they are ``arguments.rest``, unparsed.
    """

    exit_codes: ClassVar[Mapping[int, str]]
    examples: ClassVar[tuple[str, ...]] = ()
    verbatim: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The name of the command."""
        return type(self).__name__.lower()

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command; the exit status.

        Raises:
            CommandError: It cannot run as requested.
        """
        raise NotImplementedError

    def warn(self, text: str) -> None:
        """Print a line on stderr."""
        print(f"{PROGRAM} {self.name}: {text}", file=sys.stderr)


def seconds(text: str) -> float:
    """A number of seconds, 0 or more, for an option's ``type``."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give seconds, from 0 to 86400")
    return number


def add_timeout(parser: argparse.ArgumentParser, default: float, meaning: str) -> None:
    """Declare ``--timeout``; its help is ``meaning`` with the default."""
    parser.add_argument(
        "--timeout", type=seconds, default=default, metavar="S", help=f"{meaning} (default: {default:g})"
    )


def process_label(host_name: str, pid: int, run_id: str, default: str) -> str:
    """A process for a person: ``node-a pid 4711 run job-1``; ``default`` if the host is unknown."""
    if not host_name:
        return default
    return f"{host_name} pid {pid or '?'}" + (f" run {run_id}" if run_id else "")


def counted(count: int, singular: str, plural: str = "") -> str:
    """``1 event``, ``2 events``."""
    return f"{count} {singular if count == 1 else plural or singular + 's'}"
