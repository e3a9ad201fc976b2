"""Python's warnings in a block, counted, so that its record can take them along."""

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

_lock = threading.Lock()
_thread = threading.local()
_replaced = ExitStack()
_users = 0


@contextmanager
def counted_warnings() -> Iterator[Counter[str]]:
    """Count the warnings of this thread instead of showing them.

    Filters and the function that shows belong to the process: the first of several threads
    replaces them, the last puts them back.

    Yields
    ------
    Counter of str
        How often each came, as "category: text".
    """
    global _users
    counts: Counter[str] = Counter()
    with _lock:
        _users += 1
        if _users == 1:
            _replace()
    _thread.counts = counts
    try:
        yield counts
    finally:
        _thread.counts = None
        with _lock:
            _users -= 1
            if _users == 0:
                _replaced.close()


def warning_text(message: Warning | str, category: type[Warning]) -> str:
    """Say a warning in one line."""
    return f"{category.__name__}: {' '.join(str(message).split())}"


def _replace() -> None:
    _replaced.enter_context(warnings.catch_warnings())
    # Each is counted, where Python would show it once and forget it.
    warnings.simplefilter("always", append=True)
    show = warnings.showwarning

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        counts = getattr(_thread, "counts", None)
        if counts is None:
            show(message, category, filename, lineno, file, line)
        else:
            counts[warning_text(message, category)] += 1

    warnings.showwarning = note
