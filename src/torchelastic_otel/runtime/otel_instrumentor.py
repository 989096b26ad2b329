"""OpenTelemetry's own way in: ``opentelemetry-instrument torchrun ...`` finds this by its entry point.

It is loaded in the agent and in every worker: so it never imports torch, and only arms; whether a process is
an agent shows when it is about to rendezvous.
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
    """Calls back once, right after a module was imported by whoever needs it; finds nothing itself."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders give, its loader wrapped, for the one module; nothing for the rest."""
        if fullname != self._name:
            return None
        self.remove()
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader, then = spec.loader, self._then
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            from torchelastic_otel.guard import guard

            with guard:
                then()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def remove(self) -> None:
        """Take the finder off again."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
