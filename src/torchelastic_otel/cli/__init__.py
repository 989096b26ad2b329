"""``torchelastic-otel``: the commands and the handling of their errors.

Guarantees: importing this imports neither torch nor the OpenTelemetry SDK; a user's mistake is one line on stderr and
an exit status; ``--help`` shows every option and every exit status.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from torchelastic_otel.cli.command import PROGRAM, Command
from torchelastic_otel.cli.demo import Demo
from torchelastic_otel.cli.doctor.command import Doctor
from torchelastic_otel.cli.flush import Flush
from torchelastic_otel.cli.replay import Replay
from torchelastic_otel.cli.run import Run
from torchelastic_otel.cli.timeline import Timeline
from torchelastic_otel.errors import CommandError
from torchelastic_otel.version import __version__

COMMANDS: Final[tuple[Command, ...]] = (Run(), Demo(), Flush(), Replay(), Timeline(), Doctor())


class _Parser(argparse.ArgumentParser):
    """The standard library's parser, with errors of one line and status 2."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see {self.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog=PROGRAM,
        description="Rendezvous, restarts and failures of a distributed PyTorch job, visible in OpenTelemetry.",
        epilog="Each command shows its options and exit statuses with --help. Settings are environment variables:"
        " OpenTelemetry's (OTEL_EXPORTER_OTLP_ENDPOINT, ...) and TORCHELASTIC_OTEL*, which the documentation lists;"
        f" '{PROGRAM} doctor' shows their values.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    # not required: the error for a missing command lists all commands
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", parser_class=_Parser)
    for command in COMMANDS:
        text = inspect.cleandoc(type(command).__doc__ or "")
        sub = commands.add_parser(
            command.name,
            help=text.partition("\n")[0],
            description=text,
            epilog=_epilog(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.prepare_parser(sub)
    return parser


def _epilog(command: Command) -> str:
    lines = ["exit status:", *(f"  {code:<4} {meaning}" for code, meaning in sorted(command.exit_codes.items()))]
    if command.examples:
        lines += ["", "examples:", *(f"  {example}" for example in command.examples)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; those of the process where ``None``.

    Returns:
        The exit status: see the commands' help; 2 for a mistake in the arguments or settings, 130 interrupted.

    Raises:
        SystemExit: After ``--help`` and ``--version``; and what torchrun raises, in ``run``.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    prefix = PROGRAM
    try:
        command, arguments = _parse(given)
        prefix = f"{PROGRAM} {command.name}"
        if command.verbatim:
            return command.run(arguments)
        try:
            return command.run(arguments)
        except KeyboardInterrupt:
            raise CommandError("interrupted", exit_code=128 + signal.SIGINT) from None
        except BrokenPipeError:
            # the reader has closed the pipe; the interpreter must not fail on it again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
    except CommandError as error:
        print(f"{prefix}: {error}", file=sys.stderr)
        return error.exit_code


def _parse(given: list[str]) -> tuple[Command, argparse.Namespace]:
    named = {command.name: command for command in COMMANDS}
    if not given:
        raise CommandError(f"give a command: {', '.join(named)}; see {PROGRAM} --help")
    command = named.get(given[0])
    # argparse.REMAINDER would parse leading options as this program's, and drop "--"
    if command is not None and command.verbatim and given[1:2] not in (["-h"], ["--help"]):
        return command, argparse.Namespace(rest=given[1:])
    arguments = make_parser().parse_args(given)
    if arguments.command is None:
        raise CommandError(f"give a command: {', '.join(named)}; see {PROGRAM} --help")
    return named[arguments.command], arguments
