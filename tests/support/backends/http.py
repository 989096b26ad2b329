"""Questions to a program on loopback, by HTTP: no proxy, a limit of time, and an error that says what was answered."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 30.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refused(RuntimeError):
    """A program answered, and not with what was asked for. ``status`` is HTTP's."""

    def __init__(self, url: str, status: int, body: str) -> None:
        super().__init__(f"{url} answered {status}: {body[:2000]}")
        self.status = status


def get(
    url: str, parameters: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S, post: bool = False
) -> str:
    """The body of the answer; parameters that are None are left out. Raises OSError where nobody answers."""
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    query = urllib.parse.urlencode(given, doseq=True)
    request = urllib.request.Request(
        url if post or not query else f"{url}?{query}",
        data=query.encode() if post else None,
        method="POST" if post else "GET",
    )
    try:
        with _opener.open(request, timeout=timeout_s) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(url, error.code, error.read().decode(errors="replace")) from None


def get_json(url: str, parameters: Mapping[str, Any] | None = None, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The same, of an answer in JSON."""
    return json.loads(get(url, parameters, timeout_s=timeout_s))


def answers(url: str) -> bool:
    """Whether it is there and says 200 at once: how a program is asked whether it is ready."""
    try:
        get(url, timeout_s=2.0)
    except (OSError, Refused):
        return False
    return True
