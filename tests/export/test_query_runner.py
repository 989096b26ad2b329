"""Questions to a spool: whatever it answers, whoever asks is answered, and so is the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from torchelastic_otel.errors import SpoolError
from torchelastic_otel.export.query_runner import QueryRunner

MINUTE_NS = 60_000_000_000


@pytest.fixture
def questions() -> Iterator[QueryRunner]:
    """A thread of its own, which ends."""
    made = QueryRunner()
    made.start()
    thread = made._thread
    assert thread is not None
    yield made
    assert made._thread is thread  # one that has died is not begun again while a process ends
    made.stop()
    thread.join(60)
    assert not thread.is_alive()


def answered(questions: QueryRunner) -> bool:
    """Whether the thread is there for the next one."""
    return questions.run(MINUTE_NS, lambda: "there") == "there"


def raises(error: BaseException) -> Callable[[], object]:
    """A question that ends so."""

    def question() -> object:
        raise error

    return question


@pytest.mark.parametrize("error", [SpoolError("a disk"), FileNotFoundError("a folder"), PermissionError("a folder")])
def test_a_disk_that_cannot_tell_is_no_fault_and_the_next_question_is_answered(
    questions: QueryRunner, error: BaseException
) -> None:
    """A traceback on standard error for a disk in trouble frightens whoever reads a job's log."""
    assert questions.run(MINUTE_NS, raises(error)) is None
    assert answered(questions)


@pytest.mark.tests_own_faults
@pytest.mark.parametrize("error", [ValueError("ours"), RecursionError(), SystemExit(1), KeyboardInterrupt()])
def test_a_fault_is_kept_in_and_the_next_question_is_answered(
    questions: QueryRunner, faults: list[BaseException], error: BaseException
) -> None:
    """An exit asks several questions: a thread that has ended makes it wait out its whole time for each."""
    assert questions.run(MINUTE_NS, raises(error)) is None
    assert answered(questions)
    assert faults == [error]
