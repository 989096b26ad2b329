"""A dashboard as the JSON that is committed.

The JSON conforms to Grafana's published types (``tests/collector_config/test_dashboard_schema.py``); a few fields that
the SDK still writes and these types no longer have are removed.
"""

import json
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

_DROPPED = {"templating": ("auto", "auto_count", "auto_min"), "table": ("footer",)}
"""Fields of grafana-foundation-sdk 0.0.21 that @grafana/schema 13 does not have any more."""


def as_json(board: Dashboard) -> str:
    """The text of the file."""
    plain: dict[str, Any] = json.loads(json.dumps(board, cls=JSONEncoder))
    for variable in plain["templating"]["list"]:
        for field in _DROPPED["templating"]:
            variable.pop(field, None)
    for panel in plain["panels"]:
        for field in _DROPPED["table"] if panel["type"] == "table" else ():
            panel["options"].pop(field, None)
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"
