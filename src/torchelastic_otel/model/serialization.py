"""Frozen data as JSON that a spool keeps, also what another version of this package kept.

What always holds: a field that this version does not know is left out, one that the other did not know has its default;
whoever reads still raises where what is left makes no sense.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_line(data: object) -> str:
    """Slotted data, whatever it is made of, as one line of ASCII JSON; sets in order.

    Written with every row that is settled: no copies are made on the way, as ``dataclasses.asdict`` makes them.
    """
    return json.dumps(data, separators=(",", ":"), default=_plain)


def known_fields(kind: type, written: Mapping[str, Any]) -> dict[str, Any]:
    """What was written of the fields of a slotted class that this version has."""
    return {name: written[name] for name in kind.__slots__ if name in written}  # type: ignore[attr-defined]


def _plain(data: Any) -> Any:
    return sorted(data) if isinstance(data, frozenset) else {name: getattr(data, name) for name in data.__slots__}
