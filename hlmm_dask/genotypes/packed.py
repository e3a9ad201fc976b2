"""PLINK's two bits a genotype: decode and encode.

Bytes hold four samples each, the first in the lowest bits: 00 two copies of allele 1 (column 5 of
the .bim), 10 heterozygous, 11 no copy, 01 missing.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

HEADER = b"\x6c\x1b\x01"
MISSING = -1
_COUNT_OF_CODE = np.array([2, MISSING, 1, 0], dtype=np.int8)
# Index with the count; -1 (missing) takes the last entry.
_CODE_OF_COUNT = np.array([3, 2, 0, 1], dtype=np.uint8)
_BYTES = np.arange(256, dtype=np.uint8)[:, None]
_CODES = (_BYTES >> np.array([0, 2, 4, 6], dtype=np.uint8)) & 3
_COUNTS: NDArray[np.int8] = _COUNT_OF_CODE[_CODES]


def packed_width(n_samples: int) -> int:
    """Bytes of one variant: four samples a byte."""
    return -(-n_samples // 4)


def padded_rows(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.int64]:
    """Rows (k,) whose last byte has genotypes after the last sample: PLINK leaves zeros there."""
    if n_samples % 4 == 0 or not packed.size:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(packed[:, -1] >> np.uint8(2 * (n_samples % 4)))


def decode(packed: NDArray[np.uint8], n_samples: int) -> NDArray[np.int8]:
    """Decode packed genotypes to counts of allele 1.

    Parameters
    ----------
    packed : (n_variants, ceil(n_samples / 4)) uint8
        Packed genotypes.
    n_samples : int
        Samples; the rest of the last byte is padding.

    Returns
    -------
    (n_variants, n_samples) int8
        0, 1, 2, or -1 for missing.
    """
    _check_packed(packed, n_samples)
    counts: NDArray[np.int8] = _samples(_COUNTS[packed], n_samples)
    return counts


def to_dosage(
    packed: NDArray[np.uint8], n_samples: int, dtype: DTypeLike = np.float32
) -> NDArray[np.floating[Any]]:
    """Decode packed genotypes to floating counts of allele 1, NaN for missing.

    Parameters
    ----------
    packed : (n_variants, ceil(n_samples / 4)) uint8
        Packed genotypes.
    n_samples : int
        Samples.
    dtype : floating dtype
        Of the result.

    Returns
    -------
    (n_variants, n_samples) dtype
    """
    _check_packed(packed, n_samples)
    table = np.where(_COUNTS == MISSING, np.nan, _COUNTS).astype(dtype)
    dosage: NDArray[np.floating[Any]] = _samples(table[packed], n_samples)
    return dosage


def encode(counts: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack counts of allele 1; the inverse of `decode`.

    Parameters
    ----------
    counts : (n_variants, n_samples) integer
        0, 1, 2, or -1 for missing.

    Returns
    -------
    (n_variants, ceil(n_samples / 4)) uint8

    Raises
    ------
    ValueError
        If there is another value, or the array is not 2-D.
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.dtype.kind not in "iu":
        raise ValueError(f"counts must be a 2-D integer array, not {counts.ndim}-D {counts.dtype}")
    if counts.size and (counts.min() < MISSING or counts.max() > 2):
        raise ValueError("counts must be 0, 1, 2 or -1 (missing)")
    n_variants, n_samples = counts.shape
    width = packed_width(n_samples)
    codes = np.zeros((n_variants, 4 * width), dtype=np.uint8)
    codes[:, :n_samples] = _CODE_OF_COUNT[counts]
    packed = codes[:, 0::4].copy()
    for k in (1, 2, 3):
        packed |= codes[:, k::4] << np.uint8(2 * k)
    return packed


def _samples(by_byte: NDArray[Any], n_samples: int) -> NDArray[Any]:
    """Put the four values of each byte side by side: (n_variants, n_samples)."""
    n_variants, width, _ = by_byte.shape
    return by_byte.reshape(n_variants, 4 * width)[:, :n_samples]


def _check_packed(packed: NDArray[np.uint8], n_samples: int) -> None:
    expected = packed_width(n_samples)
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != expected:
        raise ValueError(
            f"packed genotypes of {n_samples} samples must be (n_variants, {expected}) uint8, "
            f"not {packed.shape} {packed.dtype}"
        )
