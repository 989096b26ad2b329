"""How a worker ended, as its node knows it."""

from __future__ import annotations

from dataclasses import dataclass

from torchelastic_otel.model.serialization import Serializable


@dataclass(frozen=True, slots=True)
class Place(Serializable):
    """A line of the program.

    Attributes:
        function: The function's qualified name.
        file: The file's path.
        line: The line, from 1.
    """

    function: str
    file: str
    line: int
