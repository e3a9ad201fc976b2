"""The null model of a run, in its store.

The file holds a SHA-256 of all that follows, a JSON text, and the plain bytes of arrays. The text
names dataclasses of a fixed list, so that reading a store of someone else runs no code of theirs.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.durable import PRIVATE, read_record, replacing, write_record
from hlmm_dask.errors import StoreError
from hlmm_dask.json_files import parse
from hlmm_dask.kernels.block_model import BlockModel
from hlmm_dask.kernels.covariate_null import CovariateModel
from hlmm_dask.kernels.dense import DenseModel
from hlmm_dask.kernels.hlmm import RandomEffectModel
from hlmm_dask.kernels.left_out import LeftOut, SetNull
from hlmm_dask.kernels.linear_model import LinearModel
from hlmm_dask.kernels.lmm import LMMNull
from hlmm_dask.kernels.lmm_fixed import FixedPlan
from hlmm_dask.kernels.packed import PackedLayout, PackedPhenotype
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.lmm_rotation import Rotation
from hlmm_dask.models.lmm_spectral import RotatedData
from hlmm_dask.models.random_design import RandomDesign
from hlmm_dask.scanning.stored_lmm import ARRAYS, StoredLMM, StoredPlan
from hlmm_dask.store import ResultsStore

MODEL_FILE = "null_model.bin"
DIGEST_FILE = "null_model.json"
PublishedModel: TypeAlias = BlockModel | StoredLMM

_CLASSES: Mapping[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        BlockModel, CovariateModel, DenseModel, Filters, FixedPlan, LMMNull, LeftOut, LinearModel,
        PackedLayout, PackedPhenotype, RandomDesign, RandomEffectModel, RotatedData, Rotation,
        SetNull, StoredLMM, StoredPlan,
    )
}  # fmt: skip
_DTYPES = frozenset(np.dtype(name).str for name in ("f8", "f4", "i8", "i4", "i1", "u1", "?"))
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class BlockTask:
    """What a task needs besides its block of genotypes.

    Attributes
    ----------
    store : ResultsStore
        Where results go.
    model_digest : str
        SHA-256 of the null model in the store's run folder.
    """

    store: ResultsStore
    model_digest: str


def publish_model(store: ResultsStore, model: PublishedModel) -> BlockTask:
    """Write the null model where every worker finds it; only the owner may read it."""
    text, arrays = _encode(model)
    head = (len(text).to_bytes(_LENGTH_BYTES, "little"), text)
    pieces: Iterable[bytes | memoryview] = chain(head, map(_bytes_of, arrays))
    digest = hashlib.sha256()
    with replacing(store.run_dir / MODEL_FILE, mode=PRIVATE) as file:
        file.write(bytes(_DIGEST_BYTES))
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.seek(0)
        file.write(digest.digest())
    return BlockTask(store, digest.hexdigest())


def published_model(store: ResultsStore) -> BlockTask | None:
    """Return the null model that an earlier part of the run published, None without a whole one."""
    try:
        with _whole_model(store) as (digest, _):
            return BlockTask(store, digest)
    except (FileNotFoundError, StoreError):
        return None


def model_digest(store: ResultsStore) -> str | None:
    """Return the digest of a run's null model as its file states it, without a comparison.

    Of a removed null model it is the digest that was kept.
    """
    try:
        with (store.run_dir / MODEL_FILE).open("rb") as file:
            return file.read(_DIGEST_BYTES).hex()
    except FileNotFoundError:
        return _removed_digest(store)


def _removed_digest(store: ResultsStore) -> str | None:
    try:
        return str(read_record(store.run_dir / DIGEST_FILE, {"sha256": str})["sha256"])
    except (FileNotFoundError, ValueError):
        return None


def kept_digest(store: ResultsStore) -> str | None:
    """Return the digest of a whole or removed null model, None where the file is damaged."""
    if not (store.run_dir / MODEL_FILE).exists():
        return model_digest(store)
    task = published_model(store)
    return None if task is None else task.model_digest


def load_model(store: ResultsStore) -> PublishedModel:
    """Load the null model of a run."""
    with _whole_model(store) as (_, file):
        return _decoded(store, file)


def load_model_of(task: BlockTask) -> PublishedModel:
    """Load the null model of a task; a `StoreError` if the file has another one."""
    with _whole_model(task.store) as (digest, file):
        if digest != task.model_digest:
            raise StoreError(
                f"{task.store.run_dir / MODEL_FILE}: not the null model of this run; start it again"
            )
        return _decoded(task.store, file)


def remove_model(store: ResultsStore) -> None:
    """Remove the values of people from a store: the null model, of which the digest stays."""
    path = store.run_dir / MODEL_FILE
    if path.exists():
        # What is the same stays as it is.
        if (digest := model_digest(store)) != _removed_digest(store):
            write_record(store.run_dir / DIGEST_FILE, {"sha256": digest})
        path.unlink()
    for pattern in (ARRAYS, f".{MODEL_FILE}.*.partial", ".lmm.npy.*.partial"):
        for left in store.run_dir.glob(pattern):
            with suppress(FileNotFoundError):
                left.unlink()


@contextmanager
def _whole_model(store: ResultsStore) -> Iterator[tuple[str, BinaryIO]]:
    """Open the null model behind its digest, which is compared with it first."""
    path = store.run_dir / MODEL_FILE
    # Read twice rather than held twice: it may be most of a worker's memory.
    with path.open("rb") as file:
        digest = file.read(_DIGEST_BYTES)
        if hashlib.file_digest(file, "sha256").digest() != digest:
            raise StoreError(f"{path}: damaged; run the scan again with --resume")
        file.seek(_DIGEST_BYTES)
        yield digest.hex(), file


def _decoded(store: ResultsStore, file: BinaryIO) -> PublishedModel:
    try:
        model = _decode(file)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{store.run_dir / MODEL_FILE}: not a null model as this program writes it "
            f"({error!r:.200}); start again with --overwrite"
        ) from None
    return model


def _encode(model: PublishedModel) -> tuple[bytes, list[NDArray[Any]]]:
    """Describe a model as JSON, and list its arrays; what it holds twice is listed once."""
    objects: list[Any] = []
    arrays: list[NDArray[Any]] = []
    known: dict[int, dict[str, int]] = {}

    def node(value: Any) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is tuple:
            return [node(each) for each in value]
        if isinstance(value, np.generic):
            arrays.append(np.asarray(value))
            return {"scalar": len(arrays) - 1}
        if id(value) in known:
            return known[id(value)]
        if isinstance(value, np.ndarray):
            if value.dtype.str not in _DTYPES:
                raise TypeError(f"an array of {value.dtype} can't be published")
            arrays.append(value)
            known[id(value)] = {"array": len(arrays) - 1}
        else:
            name = type(value).__name__
            if _CLASSES.get(name) is not type(value):
                raise TypeError(f"a {name} can't be published")
            parts = {part: node(getattr(value, part)) for part in _parts(type(value))}
            objects.append([name, parts])
            known[id(value)] = {"object": len(objects) - 1}
        return known[id(value)]

    node(model)
    shapes = [[array.dtype.str, list(array.shape), _is_fortran(array)] for array in arrays]
    return json.dumps({"objects": objects, "arrays": shapes}).encode(), arrays


def _decode(file: BinaryIO) -> PublishedModel:
    """Undo `_encode`; the arrays follow the text."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > size:
        raise ValueError("its text is longer than the file")
    about = parse(file.read(length))
    shapes = [_shape_of(*each) for each in about["arrays"]]
    end = file.tell() + sum(dtype.itemsize * count for dtype, count, _, _ in shapes)
    if end != size:
        raise ValueError("its arrays are not as long as the file")
    arrays = []
    for dtype, count, shape, fortran in shapes:
        flat = np.fromfile(file, dtype, count)
        arrays.append(flat.reshape(shape, order="F" if fortran else "C"))
    objects: list[Any] = []

    def value(node: Any) -> Any:
        if isinstance(node, list):
            return tuple(value(each) for each in node)
        if not isinstance(node, dict):
            return node
        ((kind, index),) = node.items()
        if kind == "scalar":
            return arrays[index][()]
        return {"array": arrays, "object": objects}[kind][index]

    for name, parts in about["objects"]:
        one = _CLASSES[name]
        if list(parts) != _parts(one):
            raise ValueError(f"the fields of a {name} differ")
        objects.append(one(**{part: value(node) for part, node in parts.items()}))
    model = objects[-1]
    if not isinstance(model, BlockModel | StoredLMM):
        raise ValueError(f"found a {type(model).__name__}")
    return model


def _parts(one: Any) -> list[str]:
    """Names of a dataclass's fields, without those that only cache."""
    return [each.name for each in fields(one) if each.init and each.compare]


def _shape_of(
    name: str, shape: list[int], fortran: bool
) -> tuple[np.dtype[Any], int, tuple[int, ...], bool]:
    if name not in _DTYPES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array of {name!r} with shape {shape!r}")
    count = 1
    for n in shape:
        count *= n
    return np.dtype(name), count, tuple(shape), fortran is True


def _is_fortran(array: NDArray[Any]) -> bool:
    return array.flags.f_contiguous and not array.flags.c_contiguous


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Bytes in the order of memory, copied only where the array is in pieces."""
    whole = array.T if _is_fortran(array) else np.ascontiguousarray(array)
    return whole.reshape(-1).view(np.uint8).data
