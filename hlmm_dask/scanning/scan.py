"""The function that a user calls: a scan whose results come back as a Dataset."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, Unpack, overload

from distributed import Client

from hlmm_dask.arguments import flag, whole_number
from hlmm_dask.errors import InputError
from hlmm_dask.kernels.block_model import Method
from hlmm_dask.kernels.packed import Engine
from hlmm_dask.kernels.score import SPA_THRESHOLD
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.events import Observer
from hlmm_dask.scanning.lmm import AnyNull, LMMNullModel
from hlmm_dask.scanning.null import NullModel
from hlmm_dask.scanning.null_input import Genotypes
from hlmm_dask.scanning.run import run_scans

if TYPE_CHECKING:
    import xarray as xr

    from hlmm_dask.scanning.background import Run

Path_: TypeAlias = str | os.PathLike[str]


class _Options(TypedDict, total=False):
    client: Client | None
    cluster: ClusterOptions | None
    out: Path_ | Sequence[Path_] | None
    start: int
    stop: int | None
    min_maf: float
    max_missing: float
    count_a2: bool
    h2: Literal["refit", "null"]
    method: Method
    engine: Engine
    loco: bool
    exclude_window: float | None
    spa_threshold: float
    tests: Sequence[str]
    block_size: int | None
    resume: bool
    overwrite: bool
    observers: Sequence[Observer]


@overload
def scan(
    genotypes: Genotypes,
    null: AnyNull,
    *,
    background: Literal[False] = False,
    **options: Unpack[_Options],
) -> "xr.Dataset": ...


@overload
def scan(
    genotypes: Genotypes,
    null: AnyNull,
    *,
    background: Literal[True],
    **options: Unpack[_Options],
) -> "Run": ...


@overload
def scan(
    genotypes: Genotypes,
    null: Sequence[AnyNull],
    *,
    background: Literal[False] = False,
    **options: Unpack[_Options],
) -> "list[xr.Dataset]": ...


def scan(
    genotypes: Genotypes,
    null: AnyNull | Sequence[AnyNull],
    *,
    client: Client | None = None,
    cluster: ClusterOptions | None = None,
    out: Path_ | Sequence[Path_] | None = None,
    start: int = 0,
    stop: int | None = None,
    min_maf: float = 0.05,
    max_missing: float = 5.0,
    count_a2: bool = False,
    h2: Literal["refit", "null"] = "refit",
    method: Method = "auto",
    engine: Engine = "numba",
    loco: bool = False,
    exclude_window: float | None = None,
    spa_threshold: float = SPA_THRESHOLD,
    tests: Sequence[str] = (),
    block_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    background: bool = False,
) -> "xr.Dataset | list[xr.Dataset] | Run":
    """Fit every variant and return the results.

    Parameters
    ----------
    genotypes : path, paths, PlinkGenotypes or Dataset
        PLINK files, a pattern with ``@`` for the chromosome, or a Dataset as of ``open_bed``.
    null : NullModel or LMMNullModel, or sequence of them
        From ``fit_null`` with the same genotypes, or, for the homoskedastic mixed model, from
        ``fit_lmm_null``; there ``h2="null"`` keeps the variance ratio of the null model. Several,
        of phenotypes or transforms, are scanned in one pass over the genotypes.
    client : distributed.Client, optional
        Cluster to run on; its workers must see the files. A cluster of worker processes
        on this machine by default.
    cluster : ClusterOptions, optional
        How to connect or what to start, where no client is given.
    out : path or sequence of path, optional
        Results store (a folder, ``.zarr``) to write, one for each null model. Without, results are
        kept in memory.
    start, stop, min_maf, max_missing, count_a2, h2, method, engine, loco, exclude_window
        See ``ScanConfig``.
    spa_threshold, tests
        See ``ScanConfig``.
    block_size : int, optional
        Variants a block (task, chunk); chosen from the data by default.
    resume : bool
        Go on with an existing store; finished blocks are not fitted again.
    overwrite : bool
        Replace an existing store.
    observers : sequence of Observer
        Called with each event.
    background : bool
        Return at once, while a thread of this process goes on.

    Returns
    -------
    Dataset, list of Dataset, or Run
        One variable for each column, dimension ``variants``; lazy where ``out`` is given. With
        several null models a list; with ``background`` the handle of the scan, see `Run`.

    Raises
    ------
    InputError
        If input or options can't be used; nothing is written then.
    StoreError
        If the store exists or belongs to another run.
    ScanError
        If blocks failed; the others are kept.
    """
    # Imported late: commands write tables and need no Dataset.
    from hlmm_dask.results import open_results

    config = ScanConfig(
        start, stop, min_maf, max_missing, count_a2, h2, method, engine, loco, exclude_window,
        spa_threshold, tuple(tests),
    )  # fmt: skip
    for name, value in (("resume", resume), ("overwrite", overwrite), ("background", background)):
        flag(name, value)
    if block_size is not None:
        whole_number("block_size", block_size, least=1)
    nulls = [null] if isinstance(null, NullModel | LMMNullModel) else list(null)
    outs = [out] if out is None or isinstance(out, str | os.PathLike) else list(out)
    if len(outs) != len(nulls) and out is not None:
        raise InputError(f"{len(outs)} paths for {len(nulls)} null models; give one for each")
    if background:
        from hlmm_dask.scanning.background import Run

        if not isinstance(null, NullModel | LMMNullModel):
            raise InputError("a scan in the background takes one null model, not several")
        return Run(
            genotypes, null, config, client=client, cluster=cluster, out=outs[0],
            block_size=block_size, resume=resume, overwrite=overwrite, observers=observers,
        )  # fmt: skip
    with ExitStack() as stack:
        paths = [Path(path) for path in outs if path is not None]
        if out is None:
            folder = Path(tempfile.mkdtemp(prefix="hlmm_dask_"))
            stack.callback(shutil.rmtree, folder)
            paths = [folder / f"{i}.zarr" for i in range(len(nulls))]
            resume = overwrite = False
        run_scans(
            genotypes, list(zip(nulls, paths, strict=True)), config, client=client,
            cluster=cluster, block_size=block_size, resume=resume, overwrite=overwrite,
            observers=observers,
        )  # fmt: skip
        results = [open_results(path) for path in paths]
        if out is None:
            results = [each.load() for each in results]
    return results[0] if isinstance(null, NullModel | LMMNullModel) else results
