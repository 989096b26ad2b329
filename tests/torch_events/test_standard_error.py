"""The error at the end of a worker's standard error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchelastic_otel import semconv
from torchelastic_otel.model.failure import Place
from torchelastic_otel.torch_events.standard_error import from_standard_error, place_of

TRACEBACK = """\
rors before the cut
Traceback (most recent call last):
  File "/job/train.py", line 9, in <module>
    main()
  File "/job/train.py", line 5, in main
    raise ValueError("loss is NaN")
ValueError: loss is NaN
"""
WATCHDOG = """\
[rank0]:[E1201 07:00:00 ProcessGroupNCCL.cpp:629] [Rank 0] Watchdog caught collective operation timeout
terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG 0 Rank 0] NCCL watchdog thread terminated with exception: Watchdog caught collective operation timeout
"""


def test_the_last_traceback_is_read() -> None:
    """What came before it, and what another program logs after it, is none of it."""
    earlier = TRACEBACK.replace("loss is NaN", "retried")
    error = from_standard_error(earlier + TRACEBACK + "wandb: run ended\n")
    assert error[semconv.EXCEPTION_TYPE] == "ValueError"
    assert error[semconv.EXCEPTION_MESSAGE] == "loss is NaN"
    stack = error[semconv.EXCEPTION_STACKTRACE]
    assert isinstance(stack, str)
    assert "wandb" not in stack
    assert place_of(stack) == Place("main", "/job/train.py", 5)


def test_a_place_is_one_of_the_program_if_a_library_raised() -> None:
    """A person looks for their own line."""
    library = '  File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 9, in linear\n'
    assert place_of(TRACEBACK.replace("    raise ValueError", library + "    raise ValueError")) == Place(
        "main", "/job/train.py", 5
    )
    assert place_of(library) == Place("linear", "/venv/lib/python3.11/site-packages/torch/nn/functional.py", 9)


def test_the_end_of_a_native_program_is_read() -> None:
    """NCCL's watchdog ends a process without a traceback."""
    error = from_standard_error(WATCHDOG)
    assert error[semconv.EXCEPTION_TYPE] == "c10::DistBackendError"
    assert "Watchdog caught collective operation timeout" in str(error[semconv.EXCEPTION_MESSAGE])


@pytest.mark.parametrize("text", ["", "epoch 3\n", "Traceback (most recent call last):\n  File", "Traceback\nx: y\n"])
def test_other_texts_give_nothing(text: str) -> None:
    """A log is no error."""
    assert from_standard_error(text) == {}


@given(st.text())
def test_no_text_raises(text: str) -> None:
    """A worker may write anything."""
    from_standard_error(text)
    from_standard_error(TRACEBACK + text)
