"""What exit codes mean: a signal, or a wrapper's word for one."""

from __future__ import annotations

import signal
from typing import Final

_SHELL_OFFSET: Final = 128
_UNSIGNED: Final = 256
_DEADLY: Final = frozenset(
    getattr(signal, name) for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGSEGV", "SIGTERM")
)
"""Signals that 256 - n stands for; 255 and 254 are most often ``sys.exit(-1)`` and ``-2``."""


def signal_name(exit_code: int) -> str | None:
    """The name of the signal that ended a process, from its negative exit code; ``None`` for an exit."""
    if exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"SIG{-exit_code}"


def wrapped_signal(exit_code: int) -> int | None:
    """The signal that an exit code of a wrapper stands for; ``None`` if it stands for none.

    A shell and most launchers exit with 128 + n if signal n ended their child (POSIX ``sh``, exit status). A Python
    wrapper that passes ``subprocess``'s ``returncode`` to ``sys.exit`` exits with 256 - n.
    """
    number = exit_code - _SHELL_OFFSET
    if 0 < number <= signal.SIGSYS:
        return number
    number = _UNSIGNED - exit_code
    return number if number in _DEADLY else None


def explanation(exit_code: int | None) -> str | None:
    """One sentence about an exit code that a wrapper of the worker made of a signal; ``None`` for any other."""
    number = None if exit_code is None or exit_code < 0 else wrapped_signal(exit_code)
    if number is None:
        return None
    name = signal_name(-number)
    from_shell = exit_code == _SHELL_OFFSET + number
    sum_, who = (f"128 + {number}", "a shell or a launcher") if from_shell else (f"256 - {number}", "a Python launcher")
    return f"exit code {exit_code} ({sum_}) is how {who} reports that {name} ended its child"
