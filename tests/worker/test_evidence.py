"""Evidence of a worker's failure: it is written, and the program behaves as without it. Real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import torchelastic_otel_evidence
from torchelastic_otel.agent.evidence import WorkerEvidence, parse
from torchelastic_otel.environment_variables import EVIDENCE_FILE

ADDRESS = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True)
class Run:
    """How a program ended."""

    status: int
    output: str
    errors: str


def run(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    stop_at: str | None = None,
    cwd: Path | None = None,
) -> Run:
    """Run a program; send SIGTERM when it prints that line."""
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=-1, stderr=-1, text=True, cwd=cwd
    )
    assert process.stdout is not None
    lines = []
    if stop_at is not None:
        for line in process.stdout:
            lines.append(line)
            if line.strip() == stop_at:
                process.terminate()
                break
    output, errors = process.communicate(timeout=60)
    return Run(process.returncode, ADDRESS.sub("0x", "".join(lines) + output), ADDRESS.sub("0x", errors))


@dataclass(frozen=True)
class Worker:
    """A folder for the evidence of programs that this process starts."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What an agent sets."""
        return {
            EVIDENCE_FILE: f"{os.getpid()}:{self.folder / 'evidence'}",
            "TORCHELASTIC_ERROR_FILE": str(self.folder / "error.json"),
        }

    def files(self) -> list[Path]:
        """The files of all processes."""
        return sorted(self.folder.glob("evidence.*"))

    def evidence(self) -> WorkerEvidence:
        """What the only process wrote."""
        [path] = self.files()
        return parse(path.read_text())

    def program(self, code: str) -> Path:
        """A program as a file."""
        path = self.folder / "program.py"
        path.write_text(code)
        return path


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A worker to be started."""
    return Worker(tmp_path)


RAISES = """\
def train_step():
    error = ValueError("loss is NaN")
    error.__cause__ = KeyError("gradient")
    raise error

train_step()
"""


def test_the_variable_of_the_start_up_file_is_that_of_the_agent() -> None:
    """The module that runs in a worker imports nothing of the package."""
    assert torchelastic_otel_evidence.VARIABLE == EVIDENCE_FILE


def test_an_exception_is_noted_with_time_words_and_place(worker: Worker) -> None:
    """The reason of a failure, of a script without a decorator."""
    program = worker.program(RAISES)
    assert run([sys.executable, str(program)], worker.environment).status == 1
    exception = worker.evidence().exception
    assert exception is not None
    assert (exception.type, exception.message, exception.thread) == ("ValueError", "loss is NaN", "MainThread")
    assert exception.place is not None
    assert (exception.place.function, exception.place.file, exception.place.line) == ("train_step", str(program), 4)
    assert "KeyError: 'gradient'" in exception.stack
    assert not exception.late
    assert exception.at.wall_ns > program.stat().st_mtime_ns
    [path] = worker.files()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_torchs_error_file_is_written_in_torchs_form(worker: Worker) -> None:
    """Torch's own summary then names the exception."""
    run([sys.executable, str(worker.program(RAISES))], worker.environment)
    content = json.loads((worker.folder / "error.json").read_text())["message"]
    assert content["message"] == "ValueError: loss is NaN"
    assert "train_step" in content["extraInfo"]["py_callstack"]
    assert int(content["extraInfo"]["timestamp"]) > 0
    assert [path.name for path in worker.folder.glob("error*")] == ["error.json"], "no part of one is left"


def test_an_error_file_that_exists_is_not_changed(worker: Worker) -> None:
    """Torch's decorator, or the program, wrote it and knows better."""
    (worker.folder / "error.json").write_text("own")
    run([sys.executable, str(worker.program(RAISES))], worker.environment)
    assert (worker.folder / "error.json").read_text() == "own"


def test_a_grandchild_writes_no_error_file(worker: Worker) -> None:
    """A program of a wrapper may fail while the worker goes on."""
    command = ["bash", "-c", f"{sys.executable} {worker.program(RAISES)}; exit 7"]
    assert run(command, worker.environment).status == 7
    assert worker.evidence().exception is not None
    assert not (worker.folder / "error.json").exists()


HANGS = """\
import threading, time

def load_batch():
    print("ready", flush=True)
    time.sleep(60)

threading.Thread(target=threading.Event().wait, daemon=True).start()
load_batch()
"""


def test_the_stack_at_sigterm_has_the_place_of_the_main_thread(worker: Worker) -> None:
    """An agent stops the rank that everybody waits for by SIGTERM."""
    program = worker.program(HANGS)
    ended = run([sys.executable, str(program)], worker.environment, stop_at="ready")
    assert ended.status == -signal.SIGTERM
    stop = worker.evidence().stop
    assert stop is not None
    assert stop.place is not None
    assert (stop.place.function, stop.place.file) == ("load_batch", str(program))
    assert stop.place.line in (4, 5), "it may be stopped before print() returns"
    assert stop.in_collective is False
    assert stop.text.count("most recent call first") == 2


def test_a_fatal_signal_leaves_its_stack(worker: Worker) -> None:
    """A crash in native code names the line that called it."""
    program = worker.program("import os\n\ndef step():\n    os.abort()\n\nstep()\n")
    assert run([sys.executable, str(program)], worker.environment).status == -signal.SIGABRT
    fatal = worker.evidence().fatal
    assert fatal is not None
    assert fatal.place is not None
    assert (fatal.reason, fatal.place.function, fatal.place.line) == ("Aborted", "step", 4)


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [("import sys\nsys.exit(3)\n", 3, None), ("import sys\nsys.exit('no data')\n", 1, "no data")],
    ids=["status", "text"],
)
def test_an_exit_with_an_error_status_has_its_place(worker: Worker, code: str, status: int, text: str | None) -> None:
    """``SystemExit`` never reaches the exception hook."""
    assert run([sys.executable, str(worker.program(code))], worker.environment).status == status
    ended = worker.evidence().exit
    assert ended is not None
    assert ended.place is not None
    assert (ended.code, ended.text, ended.place.line) == (status, text, 2)


def test_an_exception_of_a_thread_is_none_of_the_process(worker: Worker) -> None:
    """It ends no process; a hang may follow from it."""
    code = "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='loader')\nt.start()\nt.join()\n"
    assert run([sys.executable, str(worker.program(code))], worker.environment).status == 0
    evidence = worker.evidence()
    assert evidence.exception is None
    [exception] = evidence.thread_exceptions
    assert (exception.type, exception.thread) == ("ZeroDivisionError", "loader")


STAYS = """\
import atexit, faulthandler, time

def close_files():
    print("ready", flush=True)
    time.sleep(60)

atexit.register(close_files)
raise ValueError("x")
"""


def test_a_process_that_does_not_end_after_its_exception_shows_where_it_is(
    worker: Worker,
) -> None:
    """Its teardown hangs; the agent reports it after ten seconds."""
    program = worker.program("import torchelastic_otel_evidence as e\ne.STUCK_S = 0.05\n" + STAYS)
    process = subprocess.Popen([sys.executable, str(program)], env={**os.environ, **worker.environment}, stderr=-3)
    deadline = time.monotonic() + 60
    while not worker.files() or worker.evidence().stuck is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM
    evidence = worker.evidence()
    for stack in (evidence.stuck, evidence.stop):
        assert stack is not None
        assert stack.place is not None
        assert stack.place.function == "close_files"


OWN_HOOK_AFTER = "import sys\nsys.excepthook = lambda *_: print('own hook')\n" + RAISES


def test_an_exception_is_known_also_if_the_program_replaces_the_hook(worker: Worker) -> None:
    """Its time is that of the end of the process then, and it says so."""
    ended = run([sys.executable, str(worker.program(OWN_HOOK_AFTER))], worker.environment)
    assert ended.output == "own hook\n"
    exception = worker.evidence().exception
    assert exception is not None
    assert (exception.type, exception.late) == ("ValueError", True)


PROGRAMS = {
    "ends well": "print('well')",
    "raises": RAISES,
    "raises with a note": "error = ValueError('x')\nif hasattr(error, 'add_note'): error.add_note('y')\nraise error",
    "raises what cannot be shown": "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E()",
    "raises KeyboardInterrupt": "raise KeyboardInterrupt",
    "recursion without end": "def f(): f()\nf()",
    "exits with a status": "import sys; sys.exit(3)",
    "exits with a text": "import sys; sys.exit('no data')",
    "exits with an object": "import sys; sys.exit([1])",
    "exits with None": "import sys; sys.exit()",
    "exits by SystemExit": "raise SystemExit(5)",
    "exits in a thread": "import sys, threading; t = threading.Thread(target=sys.exit, args=(4,)); t.start(); t.join()",
    "exits without clean-up": "import os; os._exit(6)",
    "exit is caught": "import sys\ntry:\n    sys.exit(3)\nexcept SystemExit as e:\n    print(e.code)",
    "own hook after": OWN_HOOK_AFTER,
    "own hook that calls the one before": (
        "import sys\nbefore = sys.excepthook\ndef own(*a):\n    print('own')\n    before(*a)\n"
        "sys.excepthook = own\n1 / 0"
    ),
    "hook of threads": (
        "import threading\nthreading.excepthook = lambda a: print('own', a.exc_type)\n"
        "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()"
    ),
    "a thread raises": "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='t'); t.start(); t.join()",
    "atexit": "import atexit\natexit.register(print, 'bye')\nraise ValueError('x')",
    "own faulthandler": (
        "import faulthandler, sys, os\nprint(faulthandler.is_enabled())\nfaulthandler.enable()\n"
        "print(faulthandler.is_enabled())\nsys.stdout.flush()\nos.abort()"
    ),
    "faulthandler disabled": "import faulthandler\nprint(faulthandler.disable(), faulthandler.is_enabled())",
    "own timer of faulthandler": (
        "import faulthandler, sys, time\nfaulthandler.dump_traceback_later(0.2, exit=True)\n"
        "import atexit\natexit.register(time.sleep, 30)\nraise ValueError('x')"
    ),
    "own handler of SIGTERM": (
        "import signal, sys, time\n"
        "print(signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)) is signal.SIG_DFL)\n"
        "print('ready', flush=True)\n"
        "for _ in range(1200): time.sleep(0.05)"  # a signal just before one long sleep is handled after it
    ),
    "SIGTERM is ignored and given back": (
        "import signal, time\nold = signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, old)\nprint('ready', flush=True)\ntime.sleep(60)"
    ),
    "stopped": "import time\nprint('ready', flush=True)\ntime.sleep(60)",
    "stopped in a system call": "import os\nr, w = os.pipe()\nprint('ready', flush=True)\nos.read(r, 1)",
    "killed by itself": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "segmentation fault": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
    "fork, child raises": (
        "import os, sys\npid = os.fork()\nif not pid: raise ValueError('in child')\nprint(os.waitpid(pid, 0)[1])"
    ),
    "fork, child is stopped": (
        "import os, signal, time\nr, w = os.pipe()\npid = os.fork()\n"
        "if not pid:\n    os.write(w, b'x')\n    time.sleep(60)\n"
        "os.read(r, 1)\nos.kill(pid, signal.SIGTERM)\nprint(os.waitpid(pid, 0)[1])"
    ),
    "fork, child aborts": "import os\npid = os.fork()\nif not pid: os.abort()\nprint(os.waitpid(pid, 0)[1])",
    "processes of multiprocessing": (
        "import multiprocessing as m\n"
        "if __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn'):\n"
        "        p = m.get_context(way).Process(target=divmod, args=(1, 0)); p.start(); p.join(); print(p.exitcode)"
    ),
    "a child by subprocess": (
        "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', '1 / 0'], stderr=-3).returncode)"
    ),
    "environment": "import os; print([name for name in os.environ if 'EVIDENCE' in name])",
    "all descriptors closed": "import os\nos.closerange(3, 4096)\nraise ValueError('x')",
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_program_behaves_as_without_evidence(worker: Worker, name: str) -> None:
    """Exit status, standard output and standard error are the same."""
    program = worker.program(PROGRAMS[name])
    stop_at = "ready" if "'ready'" in PROGRAMS[name] else None
    command = [sys.executable, "-W", "ignore", str(program)]
    without = run(command, stop_at=stop_at)
    with_evidence = run(command, worker.environment, stop_at=stop_at)
    assert with_evidence == without


@pytest.mark.parametrize("name", ["fork, child raises", "fork, child is stopped", "fork, child aborts"])
def test_a_forked_child_writes_nothing(worker: Worker, name: str) -> None:
    """A data loader that fails or is stopped is not the worker."""
    run([sys.executable, "-W", "ignore", str(worker.program(PROGRAMS[name]))], worker.environment)
    [path] = worker.files()
    assert path.read_text() == ""
    assert not (worker.folder / "error.json").exists()


def test_children_of_multiprocessing_and_subprocess_write_nothing(worker: Worker) -> None:
    """Neither by fork nor by spawn, nor another program."""
    for name in ("processes of multiprocessing", "a child by subprocess"):
        run([sys.executable, "-W", "ignore", str(worker.program(PROGRAMS[name]))], worker.environment)
    assert [path.read_text() for path in worker.files()] == ["", ""]


@pytest.mark.parametrize("options", [["-I"], ["-E"], ["-s"]])
def test_an_isolated_interpreter_notes_its_exception(worker: Worker, options: list[str]) -> None:
    """The variable is no setting of Python's."""
    run([sys.executable, *options, str(worker.program(RAISES))], worker.environment)
    assert worker.evidence().exception is not None


def test_an_interpreter_without_site_or_package_runs_as_ever(worker: Worker) -> None:
    """No file, and no word about it."""
    program = str(worker.program(RAISES))
    base = os.path.realpath(sys.executable)
    for command in ([sys.executable, "-S", program], [base, "-I", program]):
        assert run(command, worker.environment) == run(command)
    assert worker.files() == []


def test_a_site_customization_is_run_as_ever(worker: Worker) -> None:
    """Its exception hook comes after ours, and is called alone."""
    (worker.folder / "sitecustomize.py").write_text("import sys\nsys.excepthook = lambda *_: print('site')\n")
    environment = {"PYTHONPATH": str(worker.folder)}
    command = [sys.executable, str(worker.program(RAISES))]
    assert run(command, {**worker.environment, **environment}) == run(command, environment)
    assert worker.evidence().exception is not None


@pytest.mark.parametrize(
    "prefix", ["/nowhere/evidence", "evidence\0", "x" * 5000, ""], ids=["no folder", "null", "too long", "nothing"]
)
def test_evidence_that_cannot_be_written_harms_nothing(worker: Worker, prefix: str) -> None:
    """A full disk, a folder that is gone, a variable that is nonsense."""
    command = [sys.executable, str(worker.program(RAISES))]
    for value in (f"{os.getpid()}:{prefix}".replace("\0", ""), "nonsense", ":", "1"):
        assert run(command, {EVIDENCE_FILE: value}, cwd=worker.folder) == run(command)


def test_hostile_texts_are_bounded(worker: Worker) -> None:
    """A message may be a tensor."""
    code = "class " + "E" * 3000 + "(Exception): pass\nraise " + "E" * 3000 + "('x' * 10_000_000)"
    run([sys.executable, str(worker.program(code))], worker.environment)
    [path] = worker.files()
    assert path.stat().st_size < 64 * 1024
    exception = worker.evidence().exception
    assert exception is not None
    assert exception.message.startswith("xxx")


def test_an_exception_that_a_signal_handler_raises_meanwhile_loses_nothing(worker: Worker) -> None:
    """Torch's data loader raises in its handler of SIGCHLD, wherever the program is."""
    code = """
import json
original = json.dumps

def interrupted(*arguments):
    json.dumps = original
    raise RuntimeError("DataLoader worker is killed")

json.dumps = interrupted
raise ValueError("the reason")
"""
    ended = run([sys.executable, str(worker.program(code))], worker.environment)
    assert ended.errors.endswith("ValueError: the reason\n")
    exception = worker.evidence().exception
    assert exception is not None
    assert (exception.message, exception.late) == ("the reason", False)


def test_exceptions_of_many_threads_leave_room_for_the_one_that_ends_the_process(worker: Worker) -> None:
    """Threads of a pool may all raise; their records are bounded, and the reason is another one."""
    code = (
        "import threading\nthreads = [threading.Thread(target=lambda: 1 / 0) for _ in range(40)]\n"
        "for t in threads: t.start()\nfor t in threads: t.join()\nraise ValueError('the reason')"
    )
    run([sys.executable, str(worker.program(code))], worker.environment)
    evidence = worker.evidence()
    assert len(evidence.thread_exceptions) == torchelastic_otel_evidence.MAX_THREAD_RECORDS
    assert evidence.exception is not None
    assert evidence.exception.message == "the reason"


def test_a_process_imports_only_built_in_modules_before_a_failure(worker: Worker) -> None:
    """What a worker pays at its start."""
    code = "import sys; print(sorted(sys.modules))"
    without = run([sys.executable, "-c", code])
    with_evidence = run([sys.executable, "-c", code], worker.environment)
    before, after = (set(json.loads(each.output.replace("'", '"'))) for each in (without, with_evidence))
    assert after - before <= {"torchelastic_otel_evidence", "atexit", "faulthandler", "_signal", "fcntl", "__future__"}


def test_a_process_without_the_variable_imports_nothing() -> None:
    """Every other Python process of the environment."""
    code = "import sys; print('torchelastic_otel_evidence' in sys.modules)"
    assert run([sys.executable, "-c", code]).output == "False\n"


@pytest.mark.parametrize(
    "junk", ["", "\x1e", "\x1e{}", "\x1e[1]", '\x1e{"kind":"exception","time_ns":"x"}', "\x1e" + "[" * 10_000]
)
def test_no_content_of_a_file_raises(junk: str) -> None:
    """A worker may write anything into its file."""
    record = '\x1e{"kind": "exception", "time_ns": 1, "monotonic_ns": 2, "place": 7}'
    evidence = parse(f"{junk}\n{record}\n")
    assert evidence.exception is not None
    assert evidence.exception.at.wall_ns == 1
    assert evidence.exception.place is None
