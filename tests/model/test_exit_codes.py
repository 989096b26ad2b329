"""What exit codes mean."""

from __future__ import annotations

import pytest

from torchelastic_otel.model.exit_codes import explanation, signal_name, wrapped_signal


@pytest.mark.parametrize(
    ("code", "signal", "who"),
    [
        (137, "SIGKILL", "a shell or a launcher"),
        (139, "SIGSEGV", "a shell or a launcher"),
        (134, "SIGABRT", "a shell or a launcher"),
        (143, "SIGTERM", "a shell or a launcher"),
        (247, "SIGKILL", "a Python launcher"),
        (245, "SIGSEGV", "a Python launcher"),
    ],
)
def test_a_wrappers_word_for_a_signal_is_explained(code: int, signal: str, who: str) -> None:
    """The out-of-memory killer under a wrapper is exit code 137 or 247."""
    text = explanation(code)
    assert text is not None
    assert signal in text
    assert who in text


@pytest.mark.parametrize("code", [None, 0, 1, 2, 7, 127, 128, 254, 255, -9, -15, 1000])
def test_other_exit_codes_are_explained_by_nothing(code: int | None) -> None:
    """255 and 254 are most often sys.exit(-1) and sys.exit(-2)."""
    assert explanation(code) is None


def test_a_signal_has_its_name() -> None:
    """Also one that Python does not know."""
    assert [signal_name(code) for code in (-9, -200, 0, 3)] == ["SIGKILL", "SIG200", None, None]
    assert wrapped_signal(137) == 9
