"""How a command ends from outside: signals that ask it to, a terminal that goes away."""

import signal
from contextlib import suppress
from typing import Any, TextIO, cast

# Ctrl-C; what batch systems send before they kill; a terminal that was closed.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_as_interrupted() -> None:
    """Let all signals that ask a process to end do what Ctrl-C does."""
    for number in _ENDING[1:]:
        # Ignored from the start, as with nohup: stays so.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def keep_ending() -> None:
    """Ignore further ones: the process ends already, and with its own exit code."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def lasting(stream: TextIO) -> TextIO:
    """Wrap a stream such that what it can't take any more is lost, and nothing else."""
    # Without standard error Python has None.
    return cast(TextIO, _Lasting(stream)) if stream is not None else stream


class _Lasting:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
