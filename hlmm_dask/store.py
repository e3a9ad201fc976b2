"""The results store: a Zarr group that many processes fill, one block at a time."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt
import pandas as pd

from hlmm_dask.block_markers import StoredBlocks
from hlmm_dask.chunks import read_names
from hlmm_dask.durable import PRIVATE_FOLDER, as_json, read_record, sweep, sync, write_record
from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import COUNT, SCALAR, SECONDS, Within
from hlmm_dask.layout import (
    METADATA,
    Layout,
    check_arrays,
    names_rows,
    read_attrs,
)
from hlmm_dask.lock import Lock, hold_lock
from hlmm_dask.placement import (
    LOCK_FILE,
    MANIFEST_FILE,
    damaged_files,
    make_store,
    mend_store,
    read_manifest,
    refuse_links,
    require_kinds,
)
from hlmm_dask.schema import RESULT_NAMES

FINISHED_FILE = "finished.json"
_SUMMARY = {
    "n_variants?": COUNT,
    "n_fitted?": COUNT,
    "counts?": {str: COUNT},
    "seconds?": SECONDS,
    "variants_per_second?": Within(0.0, 1e15),
    "lambda_gc_mean?": float,
    "lambda_gc_variance?": float,
    "lambda_gc_joint?": float,
    str: (*SCALAR, {str: COUNT}),
}


@dataclass(frozen=True)
class ResultsStore(StoredBlocks):
    """A results store on disk; holds no open file, so that it travels to workers.

    Attributes
    ----------
    path, n_variants, block_size, columns
        As in `StoredBlocks`.
    """

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        n_variants: int,
        block_size: int,
        variants: Iterable[pd.DataFrame],
        fingerprint: Mapping[str, Any],
        columns: Sequence[str] = RESULT_NAMES,
        attrs: Mapping[str, Any] | None = None,
        count_a2: bool = False,
        overwrite: bool = False,
        like: "ResultsStore | None" = None,
    ) -> Self:
        """Make an empty store, aside, and move it to its place when it is whole.

        Parameters
        ----------
        path : path
            Folder to be made.
        n_variants, block_size : int
            Rows of the results, and rows a block.
        variants : iterable of DataFrame
            The variants in file order, in pieces of any size, with the columns ``contig``,
            ``variant_id``, ``position``, ``allele1``, ``allele2``; held one piece at a time.
        fingerprint : mapping of str to str, int, float, bool or None
            All that decides the numbers; `check_fingerprint` compares with it.
        columns : sequence of str
            Names of the results' columns.
        attrs : mapping, optional
            Attributes of the Dataset (JSON values).
        count_a2 : bool
            The effect allele is allele2; without, allele1.
        overwrite : bool
            Replace an existing results store.
        like : ResultsStore, optional
            A store of the same variants, block size, columns and effect allele, which is copied
            where it has no results: ``variants`` are not looked at then.

        Raises
        ------
        StoreError
            If the path exists (and isn't a results store that may be overwritten), or is in use
            by another run, or the pieces do not add up to n_variants.
        InputError
            If the folder for the store is missing or can't be written.
        """
        # A link is followed: what is replaced is the store, not the link to it.
        target = Path(os.path.realpath(path))
        make_store(
            target,
            Layout(n_variants, block_size, tuple(columns)),
            variants=variants,
            fingerprint=fingerprint,
            attrs=attrs or {},
            count_a2=count_a2,
            overwrite=overwrite,
            like=None if like is None else like.path,
        )
        return cls(target, n_variants, block_size, tuple(columns))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, repair: bool = False) -> Self:
        """Open an existing store.

        Parameters
        ----------
        path : path
            Its folder.
        repair : bool
            Take it also where its arrays are damaged: `mend` comes next.

        Raises
        ------
        StoreError
            If there is none, it is damaged or of another version, holds symbolic links, or says
            that its arrays are to be read in another way than this program writes them.
        """
        target = Path(os.path.realpath(path))
        manifest = read_manifest(target)
        refuse_links(target)
        columns = tuple(manifest["columns"])
        store = cls(target, manifest["n_variants"], manifest["block_size"], columns)
        if not repair:
            check_arrays(target, store.layout)
        return store

    # What the store holds

    @property
    def names_rows(self) -> int:
        """Variants whose names lie together in one file; a whole number of blocks."""
        return names_rows(self.layout)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All that decides the numbers."""
        return dict(read_manifest(self.path)["fingerprint"])

    def attrs(self, shape: Any = None) -> dict[str, Any]:
        """Return the attributes that `create` was given, and others.

        Parameters
        ----------
        shape
            What they must be, see `check_shape`; a `StoreError` if they are not.
        """
        return read_attrs(self.path, {str: object} if shape is None else shape)

    @cached_property
    def effect_allele_is_a2(self) -> bool:
        """Whether effects are per copy of allele2 instead of allele1."""
        return bool(read_manifest(self.path)["count_a2"])

    @property
    def made(self) -> int:
        """When it was made, in ns: another store that has replaced this one differs."""
        try:
            return (self.run_dir / MANIFEST_FILE).stat().st_mtime_ns
        except FileNotFoundError:
            raise StoreError(f"{self.path}: removed or replaced meanwhile; open it again") from None

    def read_names(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Read one of ``METADATA`` of the variants start..stop-1.

        Returns
        -------
        (stop - start,) object or int64
            Positions are numbers, the others strings; alleles are (stop - start, 2).

        Raises
        ------
        StoreError
            If it is damaged.
        """
        return read_names(self.path, self.layout, name, start, stop)

    def read_variants(self, start: int, stop: int) -> pd.DataFrame:
        """Read the variants start..stop-1 as a table with the columns that `create` was given."""
        names = {name: self.read_names(name, start, stop) for name in METADATA}
        other, effect = names["variant_allele"].T
        a1, a2 = (other, effect) if self.effect_allele_is_a2 else (effect, other)
        parts = {
            "contig": names["variant_contig"],
            "variant_id": names["variant_id"],
            "position": names["variant_position"],
            "allele1": a1,
            "allele2": a2,
        }
        return pd.DataFrame(parts)

    # Writing

    def require_intact(self) -> None:
        """Raise a `StoreError` that names the file if what never changes is damaged."""
        damaged = damaged_files(self.path, read_manifest(self.path))
        if damaged:
            raise StoreError(
                f"{self.path / damaged[0]}: damaged or missing; run the scan again with --resume, "
                "which mends it"
            )

    def mend(
        self, variants: Iterable[pd.DataFrame], attrs: Mapping[str, Any], *, count_a2: bool
    ) -> list[str]:
        """Write damaged files again that never change; arguments as in `create`.

        Returns
        -------
        list of str
            The files that were damaged.

        Raises
        ------
        StoreError
            If they can't be made as they were.
        """
        manifest = read_manifest(self.path)
        require_kinds(self.path)
        for folder in (self.path / "results", self.run_dir / "blocks"):
            folder.mkdir(exist_ok=True)
        damaged = damaged_files(self.path, manifest)
        if damaged:
            mend_store(
                self.path, self.layout, damaged, variants=variants, attrs=attrs, count_a2=count_a2
            )
        if damaged and damaged_files(self.path, manifest):
            raise StoreError(
                f"{self.path / damaged[0]}: damaged, and can't be made as it was; "
                "start again with --overwrite"
            )
        check_arrays(self.path, self.layout)
        return damaged

    # The run

    def check_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Compare with the fingerprint that the store was made with.

        Raises
        ------
        StoreError
            If anything differs; says what, key by key.
        """
        kept = read_manifest(self.path)["fingerprint"]
        now = as_json(fingerprint)  # as it would be read back
        keys = [*kept, *(key for key in now if key not in kept)]
        differences = [
            f"{key}: store {kept.get(key, 'nothing')}, now {now.get(key, 'nothing')}"
            for key in keys
            if key not in kept or key not in now or kept[key] != now[key]
        ]
        if differences:
            raise StoreError(
                f"{self.path} belongs to another run ({'; '.join(differences)}); "
                "give the same input and options, or --overwrite"
            )

    def lock(self, owner: str) -> AbstractContextManager[Lock]:
        """Hold the store for one run; a `StoreError` names the run that has it already."""
        return hold_lock(self.run_dir / LOCK_FILE, owner)

    def keep_private(self) -> None:
        """Let only the owner read the run's folder, which will hold values of people."""
        with suppress(OSError):  # file systems without permissions
            self.run_dir.chmod(PRIVATE_FOLDER)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Put the final mark, with a summary (JSON values); remove what killed writers left.

        The run's folder can then be read by those who can read the store.

        Raises
        ------
        StoreError
            If blocks are missing.
        """
        self.require_complete()
        # No block is left to be written: whose writer lives, writes in vain.
        for folder in (self.path / "results", self.run_dir / "blocks"):
            for leftover in folder.glob("*.partial"):
                leftover.unlink(missing_ok=True)
        sweep(self.run_dir)
        sync(self.run_dir / "blocks")
        write_record(self.run_dir / FINISHED_FILE, summary)
        with suppress(OSError):
            self.run_dir.chmod(self.path.stat().st_mode & 0o777)

    @property
    def is_finished(self) -> bool:
        """Whether the final mark is there, and whole."""
        return self.summary() is not None

    def summary(self) -> dict[str, Any] | None:
        """Return the summary given to `finish`, None before (or when it is damaged)."""
        try:
            return read_record(self.run_dir / FINISHED_FILE, _SUMMARY)
        except (FileNotFoundError, IsADirectoryError, ValueError):
            return None
