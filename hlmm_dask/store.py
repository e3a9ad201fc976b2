"""The results store: a Zarr group that many processes fill, one block at a time.

A block counts as done when its marker, written last, is there and its range fits; whether the
numbers are still those that were written is what the marker's digest tells.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from hlmm_dask.durable import PRIVATE_FOLDER, as_json, read_record, sweep, sync, write_record
from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import COUNT, SCALAR, SECONDS, Within
from hlmm_dask.layout import (
    METADATA,
    Block,
    Layout,
    check_arrays,
    names_rows,
    read_attrs,
    read_chunk,
    read_names,
    write_chunk,
)
from hlmm_dask.lock import Lock, hold_lock
from hlmm_dask.placement import (
    LOCK_FILE,
    MANIFEST_FILE,
    RUN_FOLDER,
    damaged_files,
    make_store,
    mend_store,
    read_manifest,
    refuse_links,
    require_kinds,
)
from hlmm_dask.schema import RESULT_NAMES, Status

FINISHED_FILE = "finished.json"
_INDEX = re.compile(r"\d{7,15}", re.ASCII)
_MARKER = {
    "block": COUNT,
    "start": COUNT,
    "stop": COUNT,
    "digest": str,
    "counts": {str: COUNT},
    "null_model?": str,
    "genotypes_crc32?": str,
    "n_fitted?": COUNT,
    "seconds?": SECONDS,
    "worker?": str,
}
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
class ResultsStore:
    """A results store on disk; holds no open file, so that it travels to workers.

    Attributes
    ----------
    path : Path
        The store's folder, absolute.
    n_variants : int
        Rows of the results.
    block_size : int
        Variants of a block, the last may have fewer.
    columns : tuple of str
        Names of the results' columns.
    """

    path: Path
    n_variants: int
    block_size: int
    columns: tuple[str, ...]

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
    def run_dir(self) -> Path:
        """Folder for what belongs to the run and not to the results (the null model, markers)."""
        return self.path / RUN_FOLDER

    @property
    def layout(self) -> Layout:
        """Shape of the store."""
        return Layout(self.n_variants, self.block_size, self.columns)

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

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_variants // self.block_size)

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

    def block(self, index: int) -> Block:
        """Return the range of one block."""
        if not 0 <= index < self.n_blocks:
            raise StoreError(f"{self.path}: no block {index}, expected 0 to {self.n_blocks - 1}")
        start = index * self.block_size
        return Block(index, start, min(start + self.block_size, self.n_variants))

    def blocks(self) -> list[Block]:
        """Return all blocks in order."""
        return [self.block(index) for index in range(self.n_blocks)]

    def read(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Read results of the variants start..stop-1; see `read_block`.

        Returns
        -------
        ndarray
            (stop - start, n_columns) float64.
        """
        out = np.empty((stop - start, len(self.columns)))
        for index in range(start // self.block_size, -(-stop // self.block_size)):
            block = self.block(index)
            low, high = max(start, block.start), min(stop, block.stop)
            values = self.read_block(index)[low - block.start : high - block.start]
            out[low - start : high - start] = values
        return out

    def read_block(self, index: int) -> npt.NDArray[np.float64]:
        """Read results of a block as they are on disk; NaN where the block is not done.

        Returns
        -------
        ndarray
            (n_variants of the block, n_columns) float64, perhaps read-only.

        Raises
        ------
        StoreError
            If the block is done, but missing or damaged.
        """
        values = self._chunk(index)
        if values is None and self.marker(index) is not None:
            # It may have been written between the two looks.
            values = self._chunk(index)
            if values is None:
                raise self._lost(index)
        if values is None:
            block = self.block(index)
            return np.full((block.stop - block.start, len(self.columns)), np.nan)
        return values

    def read_blocks(self, first: int, last: int) -> npt.NDArray[np.float64]:
        """Read the blocks first..last-1, each compared with its marker's digest.

        Returns
        -------
        ndarray
            (n_variants of these blocks, n_columns) float64.

        Raises
        ------
        StoreError
            If a block is missing or damaged.
        """
        start = self.block(first).start
        out = np.empty((self.block(last - 1).stop - start, len(self.columns)))
        for index in range(first, last):
            values = self._intact(index)
            if values is None:
                raise self._lost(index)
            begin = self.block(index).start - start
            out[begin : begin + len(values)] = values
        return out

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

    def write_block(
        self, index: int, values: npt.NDArray[np.float64], *, record: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the results of one block, then, when they are on disk, its marker.

        Writing a block again replaces it.

        Parameters
        ----------
        index : int
            The block.
        values : ndarray
            (stop - start, n_columns) float64.
        record : mapping
            What else the marker keeps (JSON values): checksum of the genotypes, worker, seconds.

        Returns
        -------
        dict
            The marker's content.

        Raises
        ------
        StoreError
            If the shape is wrong.
        OSError
            If the disk is full or can't be written.
        """
        block = self.block(index)
        expected = (block.stop - block.start, len(self.columns))
        if values.shape != expected or values.dtype != np.float64:
            raise StoreError(
                f"{self.path}: block {index} got {values.shape} {values.dtype}, "
                f"expected {expected} float64"
            )
        write_chunk(self.path, index, self.block_size, values)
        marker = dict(record) | {
            "block": index,
            "start": block.start,
            "stop": block.stop,
            "digest": _digest(values),
            "counts": self._counts(values),
        }
        # Lost in a crash of the machine it costs no more than the block; `finish` syncs them all.
        return write_record(self._marker(index), marker, sync_folder=False)

    def markers(self) -> Iterator[dict[str, Any]]:
        """Iterate over the markers of all finished blocks, in order; damaged ones are left out."""
        for index in sorted(self.marked()):
            marker = self.marker(index)
            if marker is not None:
                yield marker

    def marker(self, index: int) -> dict[str, Any] | None:
        """Return the marker of a block, None when it is missing, damaged or of another range."""
        block = self.block(index)
        try:
            marker = read_record(self._marker(index), _MARKER)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None
        found = Block(marker["block"], marker["start"], marker["stop"])
        return marker if found == block else None

    def done(self) -> set[int]:
        """Return the indices of the blocks with a good marker."""
        return {int(marker["block"]) for marker in self.markers()}

    def verify(self, index: int) -> bool:
        """Read a block again and compare it with the digest in its marker."""
        return self._intact(index) is not None

    def pending(self, *, verify: bool = True) -> list[Block]:
        """Return the blocks to compute: marker missing or damaged, or (verify) chunk damaged."""
        done = self.done()
        if verify:
            done = {index for index in done if self.verify(index)}
        return [block for block in self.blocks() if block.index not in done]

    def discard(self, index: int) -> None:
        """Remove the marker of a block, so that it counts as not computed."""
        self._marker(index).unlink(missing_ok=True)

    def require_complete(self) -> None:
        """Raise a `StoreError` that counts the missing blocks, if any are missing."""
        missing = [block.index for block in self.pending(verify=False)]
        if missing:
            raise StoreError(
                f"{self.path}: {len(missing)} of {self.n_blocks} blocks are missing "
                f"(first: {missing[0]}); finish the run with --resume"
            )

    def require_intact(self) -> None:
        """Raise a `StoreError` that names the file if what never changes is damaged."""
        damaged = damaged_files(self.path, read_manifest(self.path))
        if damaged:
            raise StoreError(
                f"{self.path / damaged[0]}: damaged or missing; run the scan again with --resume, "
                "which mends it"
            )

    def require_chunks(self) -> None:
        """Raise a `StoreError` if results of a block that is done are gone: they would be NaN."""
        # In this order: of a scan that runs a marker comes after its chunk.
        done = sorted(self.marked())
        there = set(self._listed(self.path / "results"))
        for index in done:
            if f"c.{index}.0" not in there:
                raise self._lost(index)

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

    def _intact(self, index: int) -> npt.NDArray[np.float64] | None:
        """Read the results of a block, None where they are missing or not those of its marker."""
        marker, values = self.marker(index), self._chunk(index)
        if marker is None or values is None:
            return None
        return values if _digest(values) == marker["digest"] else None

    def _chunk(self, index: int) -> npt.NDArray[np.float64] | None:
        """Read the results of a block, None where they are missing or can't be read."""
        block = self.block(index)
        try:
            values = read_chunk(self.path, index, len(self.columns))
        except (RuntimeError, ValueError):  # the codec's complaints about damage
            return None
        if values is None or len(values) != self.block_size:
            return None
        return values[: block.stop - block.start]

    def _lost(self, index: int) -> StoreError:
        return StoreError(
            f"{self.path}: block {index} is missing or damaged; run the scan again with --resume"
        )

    def marked(self) -> Iterator[int]:
        """Give the indices of the blocks with a marker, good or not."""
        # One listing instead of a look for each block: most may be missing, on a slow file system.
        for name in self._listed(self.run_dir / "blocks"):
            stem, _, suffix = name.partition(".")
            if suffix == "json" and _INDEX.fullmatch(stem) and int(stem) < self.n_blocks:
                yield int(stem)

    def _listed(self, folder: Path) -> list[str]:
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(
                f"{folder}: missing; run the scan again with --resume, which makes it again"
            ) from None

    def _marker(self, index: int) -> Path:
        return self.run_dir / "blocks" / f"{index:07d}.json"

    def _counts(self, values: npt.NDArray[np.float64]) -> dict[str, int]:
        if "status" not in self.columns:
            return {}
        return count_statuses(values[:, self.columns.index("status")])


def count_statuses(status: npt.NDArray[np.float64]) -> dict[str, int]:
    """Count status codes by label; variants that are not computed (NaN) are not counted."""
    codes, counts = np.unique(status[np.isfinite(status)].astype(np.int64), return_counts=True)
    labels = {status.value: status.label for status in Status}
    pairs = zip(codes.tolist(), counts.tolist(), strict=True)
    return {labels.get(code, f"status_{code}"): count for code, count in pairs}


def _digest(values: npt.NDArray[np.float64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").data).hexdigest()
