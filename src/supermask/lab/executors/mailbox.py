"""Where tasks of a cluster leave their events; imports no torch, as it lives in a process of its own."""

from __future__ import annotations

from supermask.lab.events import Event


class Mailbox:
    """Events on their way to the driver, and its wish to stop on its way to the tasks."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stopping = False

    def put(self, event: Event) -> bool:
        """Leave an event; whether the task should stop."""
        self._events.append(event)
        return self._stopping

    def take(self) -> list[Event]:
        """All events since the last call, in order."""
        taken, self._events = self._events, []
        return taken

    def stop(self) -> None:
        """From now on, tasks should stop."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether tasks should stop."""
        return self._stopping
