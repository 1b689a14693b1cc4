"""A step that is repeated in a thread of its own, whatever happens to it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cls.errors import CLSError, Temporary
from cls.logging import bound, get_logger

_PATIENCE_SECONDS = 5.0  # after an error that may last
_log = get_logger(__name__)


class Task(threading.Thread):
    """Repeats a step until the end: at once while it says True, else after a pause, which grows in parts. No error ends it.

    Parameters
    ----------
    name
        Of the thread, and in the log.
    step
        What to do; returns whether there is more to do at once.
    pause_seconds
        Between two steps.
    stop
        Set it to end.
    parts
        The pause begins with this part of it, and grows by as much with each step that found nothing.
    ids
        What every event of the step carries in the log, as stream="flights".
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool | None],
        pause_seconds: float,
        stop: threading.Event,
        parts: int = 1,
        **ids: str,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._step = step
        self._pause_seconds = pause_seconds
        self._parts = parts
        self._ids = ids
        self._stopping = stop
        self._complaint = ""

    @property
    def failing(self) -> bool:
        """Whether its last step raised."""
        return bool(self._complaint)

    def run(self) -> None:
        """Repeat."""
        with bound(**self._ids):
            self._repeat()

    def _repeat(self) -> None:
        idle = 0
        while not self._stopping.is_set():
            try:
                more = bool(self._step())
                idle = 0 if more else idle + 1
                pause = self._pause_seconds * min(idle, self._parts) / self._parts
            except Temporary as error:
                more, pause = False, min(error.delay, _PATIENCE_SECONDS)
                self._complain(error)
            except Exception as error:  # noqa: BLE001 - the process goes on; this task tries again
                more, pause = False, _PATIENCE_SECONDS
                self._complain(error)
            else:
                self._complaint = ""
            if not more:
                self._stopping.wait(pause)

    def _complain(self, error: Exception) -> None:
        """Log an error once, not at every try."""
        complaint = str(error) or type(error).__name__
        if complaint != self._complaint:
            self._complaint = complaint
            _log.error(
                "task failed", task=self.name, error=str(error), exc_info=not isinstance(error, CLSError)
            )
