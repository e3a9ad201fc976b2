"""How far a run is, as a results store tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hlmm_dask.scanning.events import BlockFailed

State: TypeAlias = Literal["waiting", "running", "finished", "stopped"]


@dataclass(frozen=True)
class WorkerShare:
    """What one worker has done: blocks, variants, the last block and when (seconds, epoch)."""

    name: str
    n_blocks: int
    n_variants: int
    last_block: int
    last_time: float


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes
    ----------
    state : {"waiting", "running", "finished", "stopped"}
        No store yet; a living process holds it; all is done; neither.
    stopped_by : str
        Why it stopped, where the run could still tell.
    owner : str
        Who runs it, or nothing.
    n_variants, n_blocks : int
        Of the whole scan.
    n_done_variants, n_done_blocks, n_fitted : int
        In the store.
    rate : float or None
        Variants a second: of late while it runs, of the whole run when it is finished.
    seconds_left : float or None
        At that rate.
    elapsed : float or None
        Seconds since the run began, or that it took.
    workers : tuple of WorkerShare
        By their names, of the blocks in the store.
    failures : tuple of BlockFailed
        Blocks that failed in the latest run and are not in the store.
    counts : mapping of str to int
        Variants by status.
    n_seen_blocks : int
        Of the blocks in the store, those that the plots hold.
    about : mapping
        The store's attributes: model, phenotype, samples; unit of effects on the mean.
    """

    state: State = "waiting"
    stopped_by: str = ""
    owner: str = ""
    n_variants: int = 0
    n_blocks: int = 0
    n_done_variants: int = 0
    n_done_blocks: int = 0
    n_fitted: int = 0
    rate: float | None = None
    seconds_left: float | None = None
    elapsed: float | None = None
    workers: tuple[WorkerShare, ...] = ()
    failures: tuple[BlockFailed, ...] = ()
    counts: Mapping[str, int] | None = None
    n_seen_blocks: int = 0
    about: Mapping[str, Any] | None = None
