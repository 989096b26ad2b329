"""What an agent goes by where the job's store does not answer: its own view.

What always holds: an own view waits as long as the store may still answer, three seconds, or for as long as it is being
connected to; all happens on the watch thread. What an own view does once there is an answer after all is for the one
who gives it to see to (:func:`first_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torchelastic_otel.agent.coordination.store import JobStore
from torchelastic_otel.event_loop import EventLoopThread, Task
from torchelastic_otel.units import NS_PER_S

ANSWER_TIMEOUT_NS: Final = 3_000_000_000
"""After this an agent goes by what it knows itself, nanoseconds."""
_CONNECTED_NS: Final = NS_PER_S


class LocalFallback:
    """See the header of this file.

    Args:
        thread: The watch thread.
    """

    def __init__(self, thread: EventLoopThread) -> None:
        self._thread = thread
        self._tasks: dict[str, Task] = {}
        self._answered = False

    def unless_answered(self, store: JobStore, what: str, task: Task) -> None:
        """Run a task, which does nothing once there is an answer, when the store has had its time to give one.

        While the store is being connected to, it still has; an agent that ends by then goes by its own view.
        """
        if not self._answered:
            self._tasks[what] = task
        late = False

        def look() -> None:
            nonlocal late
            connecting = store.connecting
            if connecting or late:
                late = connecting  # once connected, it has a moment for what was asked meanwhile
                self._thread.call_later(_CONNECTED_NS, look)
            else:
                task()

        self._thread.call_later(ANSWER_TIMEOUT_NS, look)

    def answered(self) -> None:
        """The first question has its answer, whosever: what waits from now on is not held at the end."""
        self._answered = True
        self._tasks.clear()

    def run_all(self) -> None:
        """The agent ends, and the store never answered anything: its own views hold."""
        for task in [*self._tasks.values()]:
            task()


def first_of() -> Callable[[Task], Task]:
    """Tasks of the watch thread, of which the first one that comes runs, and no other."""
    ran = False

    def first(task: Task) -> Task:
        def run() -> None:
            nonlocal ran
            if not ran:
                ran = True
                task()

        return run

    return first
