"""Blocks of a results store, and the markers that say which are done.

A block counts as done when its marker, written last, is there and its range fits. The marker's
digest tells whether the numbers are those that were written.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.chunks import read_chunk, write_chunk
from hlmm_dask.durable import read_record, write_record
from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import COUNT, SECONDS
from hlmm_dask.layout import Block, Layout
from hlmm_dask.placement import RUN_FOLDER
from hlmm_dask.schema import Status

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
_NOTHING = {
    "null_model": None, "genotypes_crc32": None, "n_fitted": 0, "seconds": 0.0, "worker": ""
}  # fmt: skip


@dataclass(frozen=True)
class StoredBlocks:
    """Blocks of results on disk; holds no open file, so that it travels to workers.

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

    @property
    def run_dir(self) -> Path:
        """Folder for what belongs to the run and not to the results (the null model, markers)."""
        return self.path / RUN_FOLDER

    @property
    def layout(self) -> Layout:
        """Shape of the store."""
        return Layout(self.n_variants, self.block_size, self.columns)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_variants // self.block_size)

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
        """Return the marker of a block, None when it is missing, damaged or of another range.

        What a scan's markers keep and this one lacks is as nothing.
        """
        block = self.block(index)
        try:
            marker = read_record(self._marker(index), _MARKER)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            return None
        found = Block(marker["block"], marker["start"], marker["stop"])
        return _NOTHING | marker if found == block else None

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

    def require_chunks(self) -> None:
        """Raise a `StoreError` if results of a block that is done are gone: they would be NaN."""
        # In this order: of a scan that runs a marker comes after its chunk.
        done = sorted(self.marked())
        there = set(self._listed(self.path / "results"))
        for index in done:
            if f"c.{index}.0" not in there:
                raise self._lost(index)

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
            values = read_chunk(self.path, index, self.block_size, len(self.columns))
        except (RuntimeError, ValueError):  # the codec's complaints about damage
            return None
        return None if values is None else values[: block.stop - block.start]

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
