"""Chunks of a results store, read and written past Zarr, which takes many times as long."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from hlmm_dask.durable import replacing
from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import file_bytes
from hlmm_dask.layout import Layout, names_rows

_ZSTD = Zstd(level=1, checksum=True)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MOST_BYTES = 1 << 30


def write_chunk(path: Path, index: int, block_size: int, values: npt.NDArray[np.float64]) -> None:
    """Write one chunk of the results to disk.

    The bytes are those that Zarr writes.

    Parameters
    ----------
    path : Path
        The store.
    index, block_size : int
        The block, and rows of a whole one.
    values : (n_rows, n_columns) float64
        Results; the last block may have fewer rows than others.
    """
    if len(values) < block_size:
        none = np.full((block_size - len(values), values.shape[1]), np.nan)
        values = np.concatenate([values, none])
    with replacing(path / "results" / f"c.{index}.0") as file:
        file.write(_ZSTD.encode(np.ascontiguousarray(values, dtype="<f8")))


def read_chunk(
    path: Path, index: int, block_size: int, n_columns: int
) -> npt.NDArray[np.float64] | None:
    """Read one chunk of the results.

    Parameters
    ----------
    path : Path
        The store.
    index, block_size, n_columns : int
        The block, rows of a whole one, and columns of the results.

    Returns
    -------
    (block_size, n_columns) float64, or None
        The last block with rows that are none behind it; None where nothing was written.

    Raises
    ------
    RuntimeError, ValueError
        If it is damaged.
    """
    try:
        packed = file_bytes(path / "results" / f"c.{index}.0")
    except (FileNotFoundError, IsADirectoryError):
        return None
    values = np.frombuffer(_unpacked(packed, 8 * block_size * n_columns), dtype="<f8")
    return values.reshape(block_size, n_columns)


def _unpacked(packed: bytes, most: int) -> bytes:
    """Decompress a chunk; a ValueError where it says that it holds more than so many bytes."""
    # The decoder would allocate what the chunk's header says.
    flags = packed[4] if packed[:4] == _ZSTD_MAGIC and len(packed) > 4 else 0
    width = (flags >> 5 & 1, 2, 4, 8)[flags >> 6]
    if not width:
        raise ValueError("not compressed as this program does it")
    start = 5 + (not flags >> 5 & 1) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(packed[start : start + width], "little") + (256 if width == 2 else 0)
    if size > most:
        raise ValueError(f"it holds {size} bytes, expected at most {most}")
    return bytes(_ZSTD.decode(packed))


def read_names(path: Path, layout: Layout, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Read what is known of the variants.

    Parameters
    ----------
    path : Path
        The store.
    layout : Layout
        Of the store.
    name : str
        One of ``METADATA``.
    start, stop : int
        The variants start..stop-1.

    Returns
    -------
    (stop - start,) object or int64
        The position is a number, the others are strings; alleles are (stop - start, 2).

    Raises
    ------
    StoreError
        If it is damaged.
    """
    rows, more = names_rows(layout), (2,) if name == "variant_allele" else ()
    numbers = name == "variant_position"
    parts = []
    for index in range(start // rows, max(stop - 1, start) // rows + 1):
        begin = index * rows
        file = path / name / f"c.{index}{'.0' if more else ''}"
        try:
            shape = (rows, *more)
            plain = _unpacked(file_bytes(file), 8 * rows if numbers else _MOST_BYTES)
            if not numbers and int.from_bytes(plain[:4], "little") != math.prod(shape):
                raise ValueError("other number of texts than expected")
            values = np.frombuffer(plain, "<i8") if numbers else VLenUTF8().decode(plain)
            values = values.reshape(shape)
        except FileNotFoundError:
            # Zarr writes no chunk that holds the fill value only.
            values = np.full((rows, *more), 0 if numbers else "", "<i8" if numbers else object)
        except (RuntimeError, ValueError, NotADirectoryError) as error:
            raise StoreError(
                f"{file}: damaged ({error}); run the scan again with --resume, which repairs it"
            ) from None
        parts.append(values[max(start - begin, 0) : max(stop - begin, 0)])
    return np.concatenate(parts)
