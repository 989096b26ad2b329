"""What was written by another version of this package, as this one can take it.

What always holds: a field that this version does not know is left out, one that the other did not know has its default;
whoever reads still raises where what is left makes no sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def known_fields(kind: type, written: Mapping[str, Any]) -> dict[str, Any]:
    """What was written of the fields of a slotted class that this version has."""
    return {name: written[name] for name in kind.__slots__ if name in written}  # type: ignore[attr-defined]
