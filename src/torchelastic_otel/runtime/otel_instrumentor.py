"""OpenTelemetry's instrumentor: ``opentelemetry-instrument torchrun ...`` finds this by its entry point.

It is loaded in the agent and in every worker. Therefore it never imports torch, and only waits until the process turns
out to be an agent.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]


class TorchelasticInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """``instrument()`` arms; ``uninstrument()`` leaves torch as found. Providers are not used: see ARCHITECTURE.md."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The torch versions this fits."""
        return ("torch >= 2.2",)

    def _instrument(self, **kwargs: Any) -> None:
        from torchelastic_otel.instrument.arming import ELASTIC_PACKAGES
        from torchelastic_otel.runtime.entry_point import arm_at_first_rendezvous

        self._undo: list[Callable[[], None]] = []
        for elastic in ELASTIC_PACKAGES:
            self._arm_after_import(elastic, arm_at_first_rendezvous)

    def _arm_after_import(self, elastic: str, arm_at: Callable[[str], Callable[[], None]]) -> None:
        def arm() -> None:
            self._undo.append(arm_at(elastic))

        if elastic + ".rendezvous" in sys.modules:
            arm()
        else:
            finder = ImportHook(elastic + ".rendezvous", arm)
            sys.meta_path.insert(0, finder)
            self._undo.append(finder.remove)

    def _uninstrument(self, **kwargs: Any) -> None:
        from torchelastic_otel.runtime.api import uninstall

        uninstall()
        for undo in self._undo:
            undo()
        self._undo = []


class ImportHook(importlib.abc.MetaPathFinder):
    """Calls a function once, right after a module has been imported; finds no module itself."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self._name = name
        self._callback = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of the other finders with its loader wrapped, for the one module; ``None`` for any other."""
        if fullname != self._name:
            return None
        self.remove()
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader, callback = spec.loader, self._callback
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            from torchelastic_otel.guard import guard

            with guard:
                callback()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def remove(self) -> None:
        """Remove the finder."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
