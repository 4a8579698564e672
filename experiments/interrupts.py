"""Ctrl-C that lets work be saved: the first asks, the second ends the process."""

import contextlib
import signal
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """`asked` turns True with the first SIGINT or SIGTERM."""

    asked = False


@contextlib.contextmanager
def held() -> Iterator[Stop]:
    """Holds interrupts back while the block runs; a second one is not held.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number, frame):
        del frame
        stop.asked = True
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
