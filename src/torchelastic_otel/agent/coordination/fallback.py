"""What an agent does when the job's store does not answer: it uses its local view.

Guarantees: a fallback waits three seconds for the store, and longer while the connection is being opened; everything
runs on the event loop. A task of :meth:`LocalFallback.unless_answered` does nothing itself once the answer is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torchelastic_otel.agent.coordination.agreement import JobKeys
from torchelastic_otel.agent.coordination.job_store import JobStore
from torchelastic_otel.event_loop import EventLoopThread, Task
from torchelastic_otel.units import NS_PER_S

ANSWER_TIMEOUT_NS: Final = 3 * NS_PER_S
"""How long an agent waits for an answer before it uses its local view."""
_CONNECTED_NS: Final = NS_PER_S


class LocalFallback:
    """See the header of this file.

    Args:
        thread: The event loop.
    """

    def __init__(self, thread: EventLoopThread) -> None:
        self._thread = thread
        self._tasks: dict[str, Task] = {}
        self._answered = False

    def query(self, store: JobStore, name: str, query: Callable[[JobKeys], Task], fallback: Task) -> None:
        """Query the store; run either the task that the query returns, or the fallback.

        Args:
            store: The job's store.
            name: Identifies the query among those that are pending.
            query: Runs on the store's thread; returns a task for the event loop.
            fallback: Runs on the event loop if the store does not answer in time.
        """
        ran = False

        def first(task: Task) -> None:
            nonlocal ran
            if not ran:
                ran = True
                task()

        def request(keys: JobKeys) -> None:
            task = query(keys)
            self._thread.call_soon(lambda: first(task))

        self.unless_answered(store, name, lambda: first(fallback))
        store.submit(request)

    def unless_answered(self, store: JobStore, name: str, task: Task) -> None:
        """Run a task when the store has had its time to answer; the task does nothing if the answer is there.

        The time does not end while the connection is being opened.
        """
        if not self._answered:
            self._tasks[name] = task
        late = False

        def check() -> None:
            nonlocal late
            connecting = store.connecting
            if connecting or late:
                late = connecting  # once connected, it has a moment for the requests that are queued
                self._thread.call_later(_CONNECTED_NS, check)
            else:
                task()

        self._thread.call_later(ANSWER_TIMEOUT_NS, check)

    def on_answered(self) -> None:
        """The store has answered for the first time: tasks that wait from here on do not run at the end."""
        self._answered = True
        self._tasks.clear()

    def run_all(self) -> None:
        """The agent ends and the store never answered: use the local view everywhere."""
        for task in [*self._tasks.values()]:
            task()
