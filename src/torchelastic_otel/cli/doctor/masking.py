"""Masking of secrets in settings: a report is made to be pasted into a ticket.

Guarantees: a value is masked as a whole, not in part; a masked value is masked everywhere in the report.

Not guaranteed: that a secret in an unusual place (the path of a URL) is detected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

MASK: Final = "***"
_SECRET: Final = re.compile(
    r"key|token|secret|password|passwd|credential|auth|signature|cookie|(?:^|[^a-z])sig(?:$|[^a-z])", re.I
)
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s?#]*(?=@)")
_QUERY: Final = re.compile(r"(?<=[?&])([^=&#\s]+)=([^&#\s]*)")
_PAIR: Final = re.compile(r"(?:^|(?<=[,;]))(\s*[^=,;\s?/]+)=([^,;]*)")
_SHORTEST: Final = 4
"""Characters; a shorter value is masked in its place only: elsewhere it may be part of another word."""


class Masks:
    """The secrets of one environment, masked in it and in any text.

    Args:
        environ: The environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._secrets: set[str] = set()
        self._variables = {name: self._value(name, value) for name, value in environ.items() if _is_shown(name)}

    @property
    def variables(self) -> dict[str, str]:
        """The variables of OpenTelemetry and of this package, sorted, without secrets."""
        return dict(sorted(self._variables.items()))

    def text(self, text: str) -> str:
        """The text without the environment's secrets, and without credentials in URLs."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return _QUERY.sub(rf"\1={MASK}", _CREDENTIALS.sub(MASK, text))

    def everywhere(self, value: Any) -> Any:
        """The same for every text in lists and dictionaries."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {name: self.everywhere(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.everywhere(inner) for inner in value]
        return value

    def _value(self, name: str, value: str) -> str:
        if name.endswith("HEADERS"):
            return ",".join(self._header(pair) for pair in value.split(",") if pair.strip())
        if _SECRET.search(name):
            self._add(value)
            return MASK if value else ""
        for part in (*_CREDENTIALS.findall(value), *(secret for _, secret in _QUERY.findall(value))):
            self._add(part)
            self._add(part.partition(":")[2])

        def pair(match: re.Match[str]) -> str:
            if not _SECRET.search(match[1]):
                return match[0]
            self._add(match[2])
            return f"{match[1]}={MASK}"

        return _PAIR.sub(pair, _QUERY.sub(rf"\1={MASK}", _CREDENTIALS.sub(MASK, value)))

    def _header(self, pair: str) -> str:
        name, is_pair, value = pair.partition("=")
        self._add(value if is_pair else name)
        return f"{name.strip()}={MASK}" if is_pair else MASK

    def _add(self, secret: str) -> None:
        self._secrets.update(form for form in _forms(secret) if len(form) >= _SHORTEST)


def _is_shown(name: str) -> bool:
    return name.startswith(("OTEL_", "TORCHELASTIC_OTEL"))


def _forms(secret: str) -> Iterator[str]:
    """The forms of a secret elsewhere: unchanged, decoded, and the credential after ``Bearer``."""
    for form in (secret.strip(), unquote(secret).strip()):
        yield form
        if " " in form:
            yield form.rpartition(" ")[2]
