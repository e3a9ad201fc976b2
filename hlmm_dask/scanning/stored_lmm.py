"""The mixed model as it is published: small parts in the published model, large arrays in files."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.errors import StoreError
from hlmm_dask.kernels.left_out import FewKept
from hlmm_dask.kernels.lmm import LMMNull
from hlmm_dask.kernels.lmm_block import LMMBlockModel, Plan, put_together
from hlmm_dask.kernels.lmm_fixed import FixedPlan
from hlmm_dask.kernels.packed import FloatArray, IntArray, PackedLayout
from hlmm_dask.kernels.table import Filters

ARRAYS = "lmm-*.npy"
_NAME = re.compile(r"lmm-[0-9a-f]{16}\.npy")
_Array = NDArray[np.floating[Any]]

# Arrays of this process by their digest: phenotypes of the same samples share one.
_open: "WeakValueDictionary[str, _Array]" = WeakValueDictionary()


@dataclass(frozen=True)
class StoredPlan:
    """A plan without its array, and name and SHA-256 of the file that has it."""

    part: FixedPlan | LMMNull
    file: str
    digest: str


@dataclass(frozen=True)
class StoredPlans:
    """Plans whose arrays are mapped where they are needed; a few are kept."""

    stored: tuple[StoredPlan, ...]
    folder: Path
    _kept: FewKept[Plan] = field(default_factory=FewKept, compare=False, repr=False)

    def __getitem__(self, index: int, /) -> Plan:
        return self._kept.get(index, lambda: self._read(self.stored[index]))

    def _read(self, one: StoredPlan) -> Plan:
        array = _open.get(one.digest)
        if array is None:
            path = self.folder / one.file
            if not _NAME.fullmatch(one.file):
                raise StoreError(f"{path}: not an array of this run; start again with --overwrite")
            try:
                if file_sha256(path) != one.digest:
                    raise StoreError(f"{path}: damaged; start again with --overwrite")
            except FileNotFoundError:
                raise StoreError(f"{path}: missing; start again with --overwrite") from None
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            array = _open.setdefault(one.digest, mapped)
        return put_together(one.part, array)


@dataclass(frozen=True)
class StoredLMM:
    """The published model: `LMMBlockModel` but for the arrays.

    Attributes
    ----------
    layout, filters, diagonals, starts, sets
        As in ``LMMBlockModel``.
    stored : tuple of StoredPlan
        By set of variants.
    """

    layout: PackedLayout
    filters: Filters
    diagonals: FloatArray
    starts: IntArray
    sets: IntArray
    stored: tuple[StoredPlan, ...]

    def opened(self, folder: Path) -> LMMBlockModel:
        """Model whose arrays lie in a folder."""
        plans = StoredPlans(self.stored, folder)
        return LMMBlockModel(
            self.layout, self.filters, plans, self.diagonals, self.starts, self.sets
        )


def array_name(digest: str) -> str:
    """Name of the file of an array with a SHA-256."""
    return f"lmm-{digest[:16]}.npy"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
