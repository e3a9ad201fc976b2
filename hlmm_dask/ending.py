"""How a command ends from outside: signals that ask it to, a terminal that goes away."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self, TextIO, cast

# As of sendmail: a failure that passes.
EXIT_INTERRUPTED = 75

# Ctrl-C; what batch systems send before they kill; a terminal that was closed.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds until an interrupt that Python could not raise is tried again.
_AGAIN = 0.05


class Ending:
    """Context in which each signal that asks a process to end raises `KeyboardInterrupt`, once.

    Further ones are ignored: the process ends already, with its own exit code. Within another such
    context they stay ignored at the end of this one. Outside of the main thread, which alone can
    handle signals, the context does nothing.

    Attributes
    ----------
    asked : bool
        Whether a signal came. Libraries may turn the interrupt into another error.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _ENDING:
            held = signal.getsignal(number)
            # Ignored from the start, as with nohup: stays so. A handler of another program's too.
            if held in (signal.SIG_DFL, signal.default_int_handler) or _is_ours(held):
                self._before[number] = signal.signal(number, self._end)
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(self, *error: object) -> None:
        if self._before:
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            if not (self.asked and _is_ours(handler)):
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    def _unraisable(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Raise an interrupt again that came while Python called a finalizer."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
            return
        signal.signal(signal.SIGINT, self._end)
        again = threading.Timer(_AGAIN, signal.raise_signal, [signal.SIGINT])
        again.daemon = True
        again.start()


def _is_ours(handler: Any) -> bool:
    return isinstance(getattr(handler, "__self__", None), Ending)


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Lose what standard error can't take any more, and nothing else.

    A stream that is broken at the end stays wrapped: Python flushes it once more.
    """
    stream = sys.stderr
    if stream is None:  # closed by the shell
        yield
        return
    sys.stderr = cast(TextIO, _Lasting(stream))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            stream.flush()
            sys.stderr = stream


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
