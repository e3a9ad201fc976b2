"""Where the messages of Dask go while a command runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import distributed  # noqa: F401  puts its handlers on the loggers when it is imported

_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "bokeh", "tornado",
            "tornado.application", "asyncio")  # fmt: skip


@contextmanager
def off_terminal() -> Iterator[None]:
    """Keep what Dask logs off the terminal; the root logger's handlers, if any, get it."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        # Without any handler, logging writes warnings to standard error.
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = True
    try:
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers[:] = handlers
            logger.propagate = propagate
