"""Evidence of a worker's failure: hooks that are installed when the interpreter of a worker starts.

``torchelastic_otel_evidence.pth`` calls :func:`start` in a process whose environment has the variable
:data:`VARIABLE`, which an agent sets for its workers; every other Python process only looks for that variable.

Guarantees:

- A worker behaves as without it: its own exception hook, signal handlers, ``faulthandler``, ``atexit`` functions,
  output and exit status. Nothing here raises.
- Only modules that are built into the interpreter are imported before a failure; no thread is started.
- A process writes into a file of its own, mode 0600. Children inherit neither the variable nor the file: a forked
  child's descriptor is pointed at ``/dev/null``.
- The file has at most one exception, one exit and :data:`MAX_THREAD_RECORDS` exceptions of threads, each of bounded
  size, and what ``faulthandler`` writes.

The file's format: a line that begins with :data:`MARK` is a record, JSON (``exception``, ``thread_exception`` or
``exit``); all other lines are written by ``faulthandler``: stacks at SIGTERM, with which an agent stops its workers,
at a fatal signal, and of a process that has not ended :data:`STUCK_S` after an unhandled exception.

What is not seen: an exception before it has left the last frame, so that ``finally`` blocks run first; an exit by
``raise SystemExit`` in place of ``sys.exit()``; KeyboardInterrupt; the stack of a process that has a SIGTERM handler of
its own.
"""

from __future__ import annotations

import _thread
import atexit
import faulthandler
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is not imported: it costs more than all of this
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any

VARIABLE = "TORCHELASTIC_OTEL_EVIDENCE_FILE"
"""``<process id of the agent>:<path without the process id>``."""
MARK = "\x1e"
MAX_THREAD_RECORDS = 8
MAX_TEXT = 2_000
"""Characters of a message."""
STUCK_S = 9
"""Seconds; an agent reports a process that has not ended ten seconds after its exception."""
MAX_STACK = 16_000
"""Characters of a traceback; the middle is left out."""
_SIGTERM = 15
_SIG_DFL = 0
_MIN_DESCRIPTOR = 200  # a program that opens files after it closed all descriptors gets low numbers


class Evidence:
    """The hooks of one process.

    Args:
        path: The file.
        agent_pid: The process id of the agent.
    """

    def __init__(self, path: str, agent_pid: int) -> None:
        self._path = path
        self._agent_pid = agent_pid
        self._pid = os.getpid()
        self._descriptor = -1
        self._thread_records = 0
        self._noted: BaseException | None = None
        self._exit: dict[str, Any] | None = None
        self._previous_hook: Callable[..., Any] = sys.excepthook
        self._previous_thread_hook: Callable[..., Any] | None = None
        self._user_enabled = False
        self._user_timer = False

    def install(self) -> None:
        """Install the hooks."""
        self._descriptor = self._open()
        sys.excepthook = self._on_exception
        self._install_thread_hook()
        self._install_exit()
        self._install_faulthandler()
        os.register_at_fork(after_in_child=self._in_child)
        atexit.register(self._at_exit)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            import fcntl

            high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _MIN_DESCRIPTOR)
        except (OSError, ImportError):
            return descriptor  # the limit of descriptors is lower
        os.close(descriptor)
        return high

    # --- exceptions

    def _on_exception(self, kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        for _ in range(3):
            try:
                self.note(value)
                break
            except BaseException:  # noqa: BLE001 - the program's own exception is the one to be shown
                continue  # a signal handler of the program raised here, as torch's data loader does for its children
        self._previous_hook(kind, value, trace)

    def note(self, value: BaseException, *, late: bool = False) -> None:
        """Record an unhandled exception of the main thread, once.

        Args:
            value: The exception.
            late: Whether it was raised some time ago.
        """
        at = time.time_ns(), time.monotonic_ns()
        if self._noted is value or os.getpid() != self._pid or isinstance(value, KeyboardInterrupt):
            # a module that evaluates code when it is imported, as namedtuple does, makes Python forget that it was
            # interrupted: it would exit with status 1 rather than by SIGINT
            return
        record = {"kind": "exception", "time_ns": at[0], "monotonic_ns": at[1], "late": late, **describe(value)}
        self._write(record)
        self._noted = value
        if not late and not self._user_timer:
            self._dump_later(STUCK_S, file=self._descriptor)
        if os.getppid() == self._agent_pid and isinstance(value, Exception):
            write_error_file(value, record["stack"])

    def _install_thread_hook(self) -> None:
        # threading takes its hook from _thread when it is imported, which it need not be for this
        threading = sys.modules.get("threading")
        owner, name = (_thread, "_excepthook") if threading is None else (threading, "excepthook")
        self._previous_thread_hook = getattr(owner, name, None)
        if self._previous_thread_hook is not None:
            setattr(owner, name, self._on_thread_exception)

    def _on_thread_exception(self, args: Any, /) -> None:
        try:
            value = args.exc_value
            is_failure = value is not None and not isinstance(value, SystemExit)
            if is_failure and os.getpid() == self._pid and self._thread_records < MAX_THREAD_RECORDS:
                self._thread_records += 1
                at = time.time_ns(), time.monotonic_ns()
                record = {"kind": "thread_exception", "time_ns": at[0], "monotonic_ns": at[1], **describe(value)}
                record["thread"] = clip(str(getattr(args.thread, "name", "")), 200)
                self._write(record)
        except BaseException:  # noqa: BLE001, S110 - as above
            pass
        if self._previous_thread_hook is not None:
            self._previous_thread_hook(args)

    # --- exits

    def _install_exit(self) -> None:
        original = sys.exit

        def exit(status: Any = None, /) -> Any:
            try:
                if status and os.getpid() == self._pid and _thread.get_ident() == main:
                    frame = sys._getframe(1)
                    text = clip(str(status), MAX_TEXT) if not isinstance(status, int) else None
                    code = status if isinstance(status, int) else 1
                    at = time.time_ns(), time.monotonic_ns()
                    self._exit = {"kind": "exit", "time_ns": at[0], "monotonic_ns": at[1], "code": code, "text": text}
                    self._exit["place"] = place_of(frame)
            except Exception:  # noqa: BLE001, S110 - as above; an interrupt is the program's
                pass
            return original(status)

        main = _thread.get_ident()
        exit.__doc__ = original.__doc__
        sys.exit = exit

    def _at_exit(self) -> None:
        try:
            if os.getpid() != self._pid:
                return
            # the program may have replaced the exception hook
            last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
            if self._noted is None and isinstance(last, BaseException):
                self.note(last, late=True)
            elif self._noted is None and self._exit is not None:
                self._write(self._exit)
        except BaseException:  # noqa: BLE001, S110 - as above
            pass

    # --- fatal signals, SIGTERM

    def _install_faulthandler(self) -> None:
        import _signal  # type: ignore[import-not-found]  # signal itself imports enum

        # a handler from before would be called only after system calls that SA_RESTART begins anew
        if _signal.getsignal(_SIGTERM) == _SIG_DFL:
            faulthandler.register(_SIGTERM, self._descriptor, all_threads=True, chain=True)
        self._dump_later = dump_later = faulthandler.dump_traceback_later

        def user_dump_later(*args: Any, **kwargs: Any) -> Any:
            self._user_timer = True  # there is one timer for each process
            return dump_later(*args, **kwargs)

        faulthandler.dump_traceback_later = user_dump_later
        if faulthandler.is_enabled():
            return  # for the standard error, by -X faulthandler
        faulthandler.enable(self._descriptor, all_threads=True)
        enable, disable = faulthandler.enable, faulthandler.disable

        # a program that asks whether it is enabled, and then enables it, is to find it as without this
        def user_enable(*args: Any, **kwargs: Any) -> Any:
            result = enable(*args, **kwargs)
            self._user_enabled = True
            return result

        def user_disable() -> Any:
            was, self._user_enabled = self._user_enabled, False
            disable()
            return was

        def is_enabled() -> bool:
            return self._user_enabled

        faulthandler.enable, faulthandler.disable = user_enable, user_disable
        faulthandler.is_enabled = is_enabled

    # --- the file

    def _in_child(self) -> None:
        try:
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self._descriptor, inheritable=False)
            os.close(null)
        except OSError:
            pass

    def _write(self, record: dict[str, Any]) -> None:
        import json

        # a torn line of faulthandler may precede it
        os.write(self._descriptor, f"\n{MARK}{json.dumps(record)}\n".encode())


_installed: Evidence | None = None


def start() -> None:
    """Install the hooks, if this process's environment asks for it."""
    global _installed
    try:
        value = os.environ.pop(VARIABLE, None)
        if value:
            agent_pid, _, path = value.partition(":")
            evidence = Evidence(f"{path}.{os.getpid()}", int(agent_pid))
            evidence.install()
            _installed = evidence
    except Exception:  # noqa: BLE001, S110 - a program runs without evidence rather than not at all
        pass


class EntryPoint:
    """A function that an agent starts in a process of its own.

    Torch sets the environment of such a process after its interpreter has started, or forks a running one.

    Args:
        function: The function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    def __call__(self, *args: Any) -> Any:
        """Call the function, and record what it raises."""
        start()
        try:
            return self.function(*args)
        except Exception as error:
            try:
                if _installed is not None:
                    _installed.note(error)
            except Exception:  # noqa: BLE001, S110 - as above
                pass
            raise


# --- descriptions


def describe(value: BaseException) -> dict[str, Any]:
    """An exception as the fields of a record."""
    import traceback

    kind = type(value)
    module = kind.__module__
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    try:
        message = str(value)
    except Exception:  # noqa: BLE001 - what a class of the program's own does
        message = "<no text: str() failed>"
    stack = "".join(traceback.format_exception(kind, value, value.__traceback__))
    return {
        "type": clip(name, 200),
        "message": clip(message, MAX_TEXT),
        "stack": clip_middle(stack, MAX_STACK),
        "place": place_in(value),
        "thread": "MainThread",
    }


def place_in(value: BaseException) -> list[Any] | None:
    """File, line and function in the program where an exception came from: its innermost frame outside libraries."""
    frames: list[list[Any]] = []
    trace = value.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(
            [clip(code.co_filename, 1_000), trace.tb_lineno, clip(getattr(code, "co_qualname", code.co_name), 200)]
        )
        trace = trace.tb_next
    own = [frame for frame in frames if not is_library(frame[0])]
    candidates = own or frames
    return candidates[-1] if candidates else None


def place_of(frame: FrameType) -> list[Any]:
    """File, line and function of the innermost frame outside libraries."""
    first = current = frame
    while is_library(current.f_code.co_filename):
        if current.f_back is None:
            current = first
            break
        current = current.f_back
    code = current.f_code
    return [clip(code.co_filename, 1_000), current.f_lineno, clip(getattr(code, "co_qualname", code.co_name), 200)]


def is_library(path: str) -> bool:
    """Whether a file belongs to an installed library or to Python itself, by its path."""
    return path.startswith("<") or "/lib/python3." in path or "/site-packages/" in path or "/dist-packages/" in path


def clip(text: str, most: int) -> str:
    """A text, at most that many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def clip_middle(text: str, most: int) -> str:
    """A text, at most that many characters; the middle is left out."""
    half = most // 2
    return (
        text if len(text) <= most else f"{text[:half]}\n… ({len(text) - 2 * half} characters left out)\n{text[-half:]}"
    )


def write_error_file(value: BaseException, stack: str) -> None:
    """Write torch's error file, in the form of ``torch.distributed.elastic.multiprocessing.errors`` (2.2 to 2.15).

    It is complete or absent: an agent that reads half of one fails. One that exists is not changed.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or os.path.lexists(path):
        return
    import json

    message = {
        "message": clip(f"{type(value).__name__}: {value}", MAX_TEXT),
        "extraInfo": {"py_callstack": stack, "timestamp": str(int(time.time()))},
    }
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        content = json.dumps({"message": message}).encode()
        while content:
            content = content[os.write(descriptor, content) :]
        os.link(temporary, path)
    finally:
        os.close(descriptor)
        os.unlink(temporary)
