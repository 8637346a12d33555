"""One background job at a time in this process; a newer request ends the older one.

A widget's callback may run on the main thread, on a subshell's thread next to a running cell, or
inside a test. So a callback only asks (`request`), and the work happens here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

_turn = threading.Lock()  # held by the worker whose job is running
_guard = threading.Lock()
_newest: weakref.ref[Worker] | None = None


class Worker:
    """Calls `job(stop)` for the newest request; `stop` is set when the job should end early.

    `foreground=True` runs the job inside `request` instead of on a daemon thread (Google Colab
    shows no widget updates from threads). `delay` seconds of quiet must pass before a job starts,
    so that a key held down counts as one request.
    """

    def __init__(
        self,
        job: Callable[[threading.Event], None],
        *,
        foreground: bool = False,
        delay: float = 0.05,
    ) -> None:
        self.job, self.foreground, self.delay = job, foreground, delay
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._stop = threading.Event()
        self._wanted = False

    @property
    def busy(self) -> bool:
        """True while a job is waiting or running."""
        return not self._idle.is_set()

    @property
    def superseded(self) -> bool:
        """True while a newer request waits for the running job to end."""
        return self._wanted

    def request(self) -> None:
        """Ask for the job to run; a job that is running ends at its next step."""
        with self._lock:
            self.error, self._wanted = None, True
            self._stop.set()
            if self.busy:
                return
            self._idle.clear()
        if self.foreground:
            self._loop()
        else:
            threading.Thread(target=self._loop, name="ftlab-panel", daemon=True).start()

    def stop(self) -> None:
        """End the running job at its next step and forget what waits."""
        with self._lock:
            self._wanted = False
            self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Return when nothing runs or waits; raise what the last job raised, or TimeoutError."""
        if not self._idle.wait(timeout):
            raise TimeoutError(f"still training after {timeout} seconds")
        if self.error is not None:
            raise self.error

    def take_over(self) -> None:
        """Stop whichever other worker is running: a panel cell that is run twice trains once."""
        global _newest
        with _guard:
            other = _newest() if _newest is not None else None
            _newest = weakref.ref(self)
        if other is not None and other is not self:
            other.stop()

    def _loop(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._idle.set()
                    return
                self._wanted, self._stop = False, threading.Event()
                stop = self._stop
            if not self.foreground and stop.wait(self.delay):
                continue
            self.take_over()
            try:
                with _turn:
                    self.job(stop)
            except BaseException as error:  # a thread's exception is silent: keep it for wait()
                self.error = error
