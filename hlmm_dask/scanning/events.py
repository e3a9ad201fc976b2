"""What happens in a scan, told to whoever watches."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class ScanStarted:
    """The blocks are planned and the first is about to be computed.

    Attributes
    ----------
    n_variants, n_blocks : int
        Of the whole scan.
    n_done_variants, n_done_blocks : int
        Of these, found done from an earlier run.
    n_samples : int
        Analysed samples.
    n_workers : int
        Workers at the start.
    model : str
        Name of the model fitted.
    """

    n_variants: int
    n_blocks: int
    n_done_variants: int = 0
    n_done_blocks: int = 0
    n_samples: int = 0
    n_workers: int = 0
    model: str = ""


@dataclass(frozen=True)
class BlockDone:
    """The results of a block are on disk.

    Attributes
    ----------
    block : int
        Index of the block.
    n_variants, n_fitted : int
        Its variants, and those with estimates.
    seconds : float
        Time that the worker took for it.
    worker : str
        Which worker.
    n_workers : int
        Workers at present, 0 if not known.
    """

    block: int
    n_variants: int
    n_fitted: int
    seconds: float
    worker: str = ""
    n_workers: int = 0


@dataclass(frozen=True)
class BlockFailed:
    """A block could not be computed; the run goes on without it and can be resumed.

    Attributes
    ----------
    block : int
        Index of the block.
    error : str
        Why, in one line.
    n_variants : int
        Its variants.
    """

    block: int
    error: str
    n_variants: int = 0


@dataclass(frozen=True)
class ScanFinished:
    """No block is left to be computed.

    Attributes
    ----------
    seconds : float
        From the start of the scan.
    n_variants, n_fitted : int
        Done in this run.
    n_failed_blocks : int
        Blocks without results.
    """

    seconds: float
    n_variants: int = 0
    n_fitted: int = 0
    n_failed_blocks: int = 0


@dataclass(frozen=True)
class Note:
    """Something that the user should know, in one line."""

    text: str


Event: TypeAlias = ScanStarted | BlockDone | BlockFailed | ScanFinished | Note


class Observer(Protocol):
    """Whoever watches: called with each event, in order, from one thread."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event; must return soon."""


def tell(observers: Iterable[Observer], event: Event) -> None:
    """Pass an event to all observers."""
    for observer in observers:
        observer(event)
