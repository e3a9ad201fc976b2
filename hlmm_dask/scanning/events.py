"""What happens in a scan, told to whoever watches."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True)
class Phase:
    """The next part of the work begins.

    ``input``, ``relationships``, ``null model``, ``cluster``, ``blocks`` (the stores are there),
    ``tables``.
    """

    name: str


@dataclass(frozen=True)
class NullFitted:
    """A null model is there.

    Attributes
    ----------
    phenotype, model, transform : str
        Their names.
    accounting : tuple of (str, int)
        Steps of the selection of samples, and how many are left after each.
    effects : tuple of (str, str, float, float)
        ``mean`` or ``variance``, name of the covariate, effect, standard error.
    loglik : float
        Log-likelihood without random effects.
    n_random : int
        Random effects.
    h2, h2_se : float or None
        Their variance and its standard error.
    cautions : tuple of str
        What the values of the phenotype mean for the tests.
    """

    phenotype: str
    model: str
    accounting: tuple[tuple[str, int], ...]
    effects: tuple[tuple[str, str, float, float], ...]
    loglik: float
    n_random: int = 0
    h2: float | None = None
    h2_se: float | None = None
    transform: str = "none"
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """All is checked, and what is to be written can be.

    Attributes
    ----------
    block_size, n_blocks : int
        Variants a block, and blocks.
    worker_bytes : int
        What a worker needs at the most.
    memory_limit : int or None
        What it may take.
    """

    block_size: int
    n_blocks: int
    worker_bytes: int
    memory_limit: int | None


@dataclass(frozen=True)
class TablesWritten:
    """The table of a phenotype and what belongs to it are written.

    Attributes
    ----------
    path : str
        The table.
    summary : dict
        As of :func:`hlmm_dask.scanning.summary.summarise`.
    """

    path: str
    summary: dict[str, Any]


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
    workers : tuple of str
        Where it was tried, in that order.
    """

    block: int
    error: str
    n_variants: int = 0
    workers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockRetried:
    """A block failed on a worker, and is given to another one if there is one.

    Attributes
    ----------
    block : int
        Index of the block.
    error : str
        Why, in one line.
    worker : str
        Where.
    """

    block: int
    error: str
    worker: str


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
class Warned:
    """Python warned of something while a block was computed.

    Attributes
    ----------
    text : str
        Category and message in one line.
    count : int
        How often in this block.
    """

    text: str
    count: int = 1


@dataclass(frozen=True)
class PageServed:
    """The scheduler serves pages on which the scan can be watched.

    Attributes
    ----------
    address : str
        The page of scans where it has one, else Dask's first.
    """

    address: str


@dataclass(frozen=True)
class Note:
    """Something that the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class FilesOpened:
    """Genotype files have been opened and checked.

    Attributes
    ----------
    what : str
        What they are for: ``genotypes``, ``random effects``, ``relationship matrix``.
    paths : tuple of str
        The .bed files, in the order of their variants.
    """

    what: str
    paths: tuple[str, ...]


Event: TypeAlias = (
    Phase | NullFitted | Planned | ScanStarted | BlockDone | BlockFailed | BlockRetried
    | ScanFinished | TablesWritten | Warned | Note | FilesOpened | PageServed
)  # fmt: skip


class Observer(Protocol):
    """Whoever watches: called with each event, in order, from one thread."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event; must return soon."""


def tell(observers: Iterable[Observer], event: Event) -> None:
    """Pass an event to all observers."""
    for observer in observers:
        observer(event)
