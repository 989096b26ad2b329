"""What all commands have in common: help, exit statuses, mistakes, and what importing them costs."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

import pytest

from torchelastic_otel.cli import COMMANDS, main, make_parser
from torchelastic_otel.cli.command import Command
from torchelastic_otel.errors import CommandError
from torchelastic_otel.version import __version__

NAMES = [command.name for command in COMMANDS]


def test_the_commands_are_those_of_the_documentation() -> None:
    """A command that is added here must be documented there."""
    assert NAMES == ["run", "demo", "flush", "replay", "timeline", "doctor"]


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_help_tells_the_purpose_every_option_and_every_exit_status(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person at a broken job has the help and nothing else."""
    with pytest.raises(SystemExit) as ended:
        main([command.name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert (type(command).__doc__ or "").strip().partition("\n")[0] in text
    assert "exit status:" in text
    for code, meaning in command.exit_codes.items():
        assert re.search(rf"^  {code} +{re.escape(meaning)}$", text, re.MULTILINE)
    assert {0, 1, 2} <= set(command.exit_codes)
    assert all(f"  {example}" in text for example in command.examples)
    parser = argparse.ArgumentParser(add_help=False)
    command.prepare_parser(parser)
    for action in parser._actions:
        assert action.help, f"{action.option_strings} has no help"
        assert all(option in text for option in action.option_strings)


def test_the_overview_has_a_line_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without it nobody finds the others."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{name} +\S", text, re.MULTILINE) for name in NAMES)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The first question of every ticket."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"torchelastic-otel {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a command: run, demo, flush, replay, timeline, doctor"),
        (["flus"], "invalid choice: 'flus'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["flush", "--timeot", "3"], "unrecognized arguments: --timeot"),
        (["flush", "--timeout", "soon"], "'soon' is not allowed; give seconds, from 0 to 86400"),
        (["flush", "--timeout", "-1"], "'-1' is not allowed"),
        (["flush", "--timeout", "nan"], "'nan' is not allowed"),
        (["flush"], "no exporter is configured"),
        (["replay"], "FILE"),
        (["replay", "/no/such/file"], "/no/such/file: No such file or directory"),
        (["replay", "--destination", "otpl", "/dev/null"], "unknown destination 'otpl' (did you mean 'otlp'?); known:"),
        (["demo", "--protocol", "smtp"], "smtp"),
        (["doctor", "now"], "unrecognized arguments: now"),
    ],
)
def test_a_users_mistake_is_one_line_on_stderr_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was given, what is allowed; never a traceback."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("torchelastic-otel")
    assert said in shown.err


def test_an_error_of_a_command_carries_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Statuses are part of the interface: scripts act on them."""

    def fail(self: Command, arguments: argparse.Namespace) -> int:
        raise CommandError("no more", exit_code=7)

    monkeypatch.setattr(type(COMMANDS[2]), "run", fail)
    assert main(["flush"]) == 7
    assert capsys.readouterr().err == "torchelastic-otel flush: no more\n"


def test_an_interruption_is_one_line_and_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control-C is how people end a command; a traceback would tell them nothing."""

    def interrupted(self: Command, arguments: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(COMMANDS[2]), "run", interrupted)
    assert main(["flush"]) == 130
    assert capsys.readouterr().err == "torchelastic-otel flush: interrupted\n"


@pytest.mark.torch_unloaded
def test_importing_the_commands_and_their_parser_imports_neither_torch_nor_the_sdk() -> None:
    """``--help`` must be quick, and work where torch is missing or broken."""
    program = """
import sys
from torchelastic_otel.cli import make_parser
make_parser()
heavy = ("torch", "opentelemetry", "grpc", "requests", "sqlite3")
print([name for name in sys.modules if name.partition(".")[0] in heavy])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_module_is_the_same_program() -> None:
    """``python -m`` is the way in where the script is not on the path."""
    result = subprocess.run(
        [sys.executable, "-m", "torchelastic_otel", "nonsense"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("torchelastic-otel: ")
    assert result.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """``torchelastic-otel doctor | head -1`` must end without a traceback of the interpreter's."""
    program = f"{sys.executable} -m torchelastic_otel doctor --timeout 1 | true"
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_every_commands_parser_is_made_without_a_clash() -> None:
    """An option that is declared twice would fail at the first use of any command."""
    assert make_parser().parse_args(["flush", "--watch", "--interval", "2"]).interval == 2.0
