"""The results as one table: gzipped text (BGZF) with hlmm's columns first, or Parquet.

Both are read from the store in batches, written aside, synced and renamed; a table is never
written from a store in which blocks are missing.
"""

import fcntl
import gzip
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from hlmm_dask import bgzf
from hlmm_dask.durable import open_to_append, replacing
from hlmm_dask.errors import InputError
from hlmm_dask.schema import (
    CLASS_DOC,
    DISPERSION_COLUMNS,
    LMM_COLUMNS,
    LMM_HEADERS,
    LMM_NAMES,
    RESULT_COLUMNS,
    RESULT_NAMES,
    TEST_COLUMNS,
    TSV_HEADERS,
    Status,
)
from hlmm_dask.store import ResultsStore
from hlmm_dask.tab_separated import line, lines_of

BATCH_VARIANTS = 65_536
# Rows that become text at a time: what is on the way stays in the cache.
_TEXT_ROWS = 8_192
# More threads would wait for the interpreter's lock, and for the one that reads.
MAX_THREADS = 4
_Item = TypeVar("_Item")
_Done = TypeVar("_Done")
_GZIP_MAGIC = b"\x1f\x8b"
_TEXT_HEADERS = ("SNP", "chrom", "effect_allele", "other_allele", "status")
_VARIANT_HEADERS = ("SNP", "chrom", "pos", "effect_allele", "other_allele")


class Values(Protocol):
    """One number a variant that can be read in slices: an array, also one on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> Any: ...


def table_headers(store: ResultsStore, extra: Mapping[str, Values] | None = None) -> list[str]:
    """Return the headers of a store's table, in order.

    A store of the heteroskedastic models has `schema.TSV_HEADERS`, one of the homoskedastic model
    `schema.LMM_HEADERS`; of others the variant columns, then the store's own. ``extra`` comes last.
    """
    own = [_header(name) for name in store.columns]
    if set(RESULT_NAMES) <= set(store.columns):
        headers = [*TSV_HEADERS, *(name for name in own if name not in TSV_HEADERS)]
    elif store.columns == LMM_NAMES:
        headers = list(LMM_HEADERS)
    else:
        headers = [*_VARIANT_HEADERS, *own]
    return headers + [_header(name) for name in extra or {}]


def write_tsv(
    store: ResultsStore,
    path: str | os.PathLike[str],
    *,
    extra: Mapping[str, Values] | None = None,
    append: bool = False,
    threads: int | None = None,
) -> int:
    """Write the results as a gzipped, tab-separated table, one row a variant in file order.

    Text and numbers are written as `hlmm_dask.tab_separated` says. The effect allele is the one
    that the store was made for. The file is BGZF; an index of the table that it replaces
    (``.tbi``) is removed.

    Parameters
    ----------
    store : ResultsStore
        A store with every block.
    path : path
        OUTPREFIX.models.gz.
    extra : mapping of str to (n_variants,) float64, optional
        Further columns by name (the dispersion effects).
    append : bool
        Add the rows to an existing table with the same header; one that isn't BGZF, such as
        hlmm's own uncompressed tables, is compressed anew. Without a file, the same as not append.
    threads : int, optional
        How many pieces become text at a time; by default as many as cores, at most
        ``MAX_THREADS``. The bytes are the same with any number.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    StoreError
        If a block is missing or damaged.
    InputError
        If an existing table has another header, or an extra column another length.
    OSError
        If the disk is full or can't be written.
    """
    table = TextTable(store, Path(path), extra or {}, append=append)
    return next(write_tables([table], threads=threads))[1]


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table that is to be written; see :func:`write_tsv`.

    Attributes
    ----------
    store : ResultsStore
        A store with every block.
    path : Path
        OUTPREFIX.models.gz.
    extra : mapping of str to (n_variants,) float64
        Further columns by name.
    append : bool
        Add the rows to an existing table.
    """

    store: ResultsStore
    path: Path
    extra: Mapping[str, Values]
    append: bool = False

    @property
    def headers(self) -> list[str]:
        """Names of its columns."""
        return table_headers(self.store, self.extra)

    @property
    def old(self) -> Path | None:
        """The table that it is added to, if any."""
        return self.path if self.append and self.path.exists() else None

    def pieces(self) -> Iterator[pa.Table]:
        """Read it, a few rows at a time."""
        headers = self.headers
        for rows in _ranges(self.store, self.extra):
            batch = _batch(self.store, headers, self.extra, *rows)
            yield from (batch.slice(i, _TEXT_ROWS) for i in range(0, len(batch), _TEXT_ROWS))


def write_tables(
    tables: Iterable[TextTable], *, threads: int | None = None
) -> Iterator[tuple[TextTable, int]]:
    """Write tables in order; while one is written, the next is read and becomes text.

    Parameters and errors as :func:`write_tsv`. A table after one with an error is not written,
    and perhaps that before it neither.

    Yields
    ------
    TextTable, int
        What is written by then, and its number of rows.
    """
    items = ((table, piece) for table in tables for piece in table.pieces())

    def pack(item: tuple[TextTable, pa.Table]) -> tuple[TextTable, bytes, int]:
        table, piece = item
        return table, bgzf.compress(lines_of(piece)), len(piece)

    done = _in_order(pack, items, threads or _cores())
    for table, parts in groupby(done, key=itemgetter(0)):
        n_rows = 0
        with (
            _appending_alone(table.path) if table.append else nullcontext(),
            replacing(table.path) as file,
        ):
            if table.old is not None:
                _check_header(table.old, table.headers)
                _copy_table(table.old, file)
            else:
                file.write(bgzf.compress(line(table.headers).encode()))
            for _, packed, n in parts:
                file.write(packed)
                n_rows += n
            file.write(bgzf.END)
            Path(f"{table.path}.tbi").unlink(missing_ok=True)
        yield table, n_rows


def write_parquet(
    store: ResultsStore,
    path: str | os.PathLike[str],
    *,
    extra: Mapping[str, Values] | None = None,
) -> int:
    """Write the results as Parquet: the columns of `write_tsv`, numbers as numbers.

    Parameters and errors as `write_tsv`; ``n`` is a 64-bit integer (null without value), the
    status a dictionary of its labels.

    Returns
    -------
    int
        Number of rows written.
    """
    # Imported late: few ask for it.
    from pyarrow.parquet import ParquetWriter

    headers = table_headers(store, extra)
    columns = extra or {}
    ranges = _ranges(store, columns)
    batches = (_batch(store, headers, columns, *rows) for rows in ranges)
    first = next(batches)
    n_rows = 0
    with (
        replacing(path) as file,
        ParquetWriter(file, first.schema, compression="zstd") as writer,
    ):
        for table in chain([first], batches):
            writer.write_table(table)
            n_rows += table.num_rows
    return n_rows


def read_models_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of `write_tsv`, or one that hlmm wrote (truly gzip or not).

    Returns
    -------
    DataFrame
        Names, alleles and status as strings, numbers as float64 (``n`` and ``pos`` as int64
        where every row has one).

    Raises
    ------
    InputError
        If it isn't such a table.
    """
    headers = _read_header(Path(path))
    if not headers or headers[0] != "SNP":
        raise InputError(
            f"{path}: line 1 starts with '{headers[0] if headers else ''}', expected the header of "
            "a .models.gz table, which starts with 'SNP'"
        )
    if bgzf.is_bgzf(path):
        _require_end(Path(path))
    types = {name: pa.string() if name in _TEXT_HEADERS else pa.float64() for name in headers}
    try:
        with pa.OSFile(os.fsencode(path)) as raw:
            source = pa.CompressedInputStream(raw, "gzip") if _is_gzip(Path(path)) else raw
            table = pyarrow.csv.read_csv(
                source,
                # Quotes inside an unquoted ID, as in hlmm's tables, stay as they are.
                parse_options=pyarrow.csv.ParseOptions(delimiter="\t", newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types,
                    null_values=["NaN", "nan", "NA", ""],
                    strings_can_be_null=False,
                ),
            )
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a whole .models.gz table: {reason}") from error
    frame = cast(pd.DataFrame, table.to_pandas())
    for name in ("n", "pos", *(f"n_{name}" for name in CLASS_DOC)):
        if name in frame and bool((frame[name] % 1 == 0).all()):
            frame[name] = frame[name].astype(np.int64)
    return frame


def _header(name: str) -> str:
    tests = chain.from_iterable(TEST_COLUMNS.values())
    columns = (*RESULT_COLUMNS, *LMM_COLUMNS, *DISPERSION_COLUMNS, *tests)
    headers = {column.name: column.header for column in columns}
    return headers.get(name, name)


def _ranges(store: ResultsStore, extra: Mapping[str, Values]) -> list[tuple[int, int]]:
    """Return first and last block + 1 of each batch; at least one, of a complete store."""
    store.require_intact()
    store.require_complete()
    for name, column in extra.items():
        if len(column) != store.n_variants:
            raise InputError(
                f"{store.path}: the extra column {name} has {len(column)} values, expected "
                f"{store.n_variants}, one a variant"
            )
    # Rounded as the chunks of the variants are.
    step = -(-BATCH_VARIANTS // store.block_size)
    return [(i, min(i + step, store.n_blocks)) for i in range(0, store.n_blocks, step)]


def _batch(
    store: ResultsStore, headers: list[str], extra: Mapping[str, Values], first: int, last: int
) -> pa.Table:
    """Read the rows of the blocks first..last-1."""
    values = store.read_blocks(first, last)
    start, stop = store.block(first).start, store.block(last - 1).stop
    columns = _variant_columns(store, start, stop)
    for i, name in enumerate(store.columns):
        columns[_header(name)] = _TYPED.get(name, pa.array)(np.ascontiguousarray(values[:, i]))
    for name, column in extra.items():
        columns[_header(name)] = pa.array(np.asarray(column[start:stop], dtype=np.float64))
    return pa.table({header: columns[header] for header in headers})


def _variant_columns(store: ResultsStore, start: int, stop: int) -> dict[str, pa.Array]:
    variants = store.read_variants(start, stop)
    effect, other = "allele1", "allele2"
    if store.effect_allele_is_a2:
        effect, other = other, effect
    sources = ("variant_id", "contig", "position", effect, other)
    return {
        header: pa.Array.from_pandas(variants[source])
        for header, source in zip(_VARIANT_HEADERS, sources, strict=True)
    }


def _integers(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, from_pandas=True).cast(pa.int64())


def _labels(values: npt.NDArray[np.float64]) -> pa.Array:
    labels = [status.label for status in Status]
    codes = pa.array(values, from_pandas=True).cast(pa.int8())
    return pa.DictionaryArray.from_arrays(codes, pa.array(labels))


_TYPED: dict[str, Callable[[npt.NDArray[np.float64]], pa.Array]] = {
    "n_samples": _integers,
    **{f"n_{name}": _integers for name in CLASS_DOC},
    "status": _labels,
}


def _in_order(
    work: Callable[[_Item], _Done], items: Iterable[_Item], threads: int
) -> Iterator[_Done]:
    """Work on items in threads; yield what is done in order, with few waiting."""
    with ThreadPoolExecutor(threads) as pool:
        coming = deque[Future[_Done]]()
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_THREADS)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _read_header(path: Path) -> list[str]:
    try:
        opener = gzip.open if _is_gzip(path) else open
        with opener(path, "rt", encoding="utf-8") as file:
            return str(file.readline(100_000)).rstrip("\r\n").split("\t")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as a .models.gz table: {error}") from error


def check_appendable(path: Path, headers: list[str]) -> None:
    """Raise an `InputError` unless rows with these columns can be appended to the table.

    One that is plain gzip is read to its end.
    """
    _check_header(path, headers)
    if bgzf.is_bgzf(path):
        _require_end(path)
    elif _is_gzip(path):
        for _ in _plain(path):
            pass


def _check_header(path: Path, headers: list[str]) -> None:
    found = _read_header(path)
    if found != headers:
        raise InputError(
            f"{path}: line 1 has the columns {' '.join(found)[:200]}, the rows to append have "
            f"{' '.join(headers)}; give another OUTPREFIX"
        )


def _require_end(path: Path) -> None:
    """Raise an `InputError` if blocks may be missing from the end of a BGZF table."""
    if not bgzf.has_end(path):
        raise InputError(
            f"{path}: not a whole .models.gz table: the block that marks its end is missing; "
            "write or copy it again"
        )


def _plain(path: Path) -> Iterator[bytes]:
    """Read the text of a table, compressed or not, in pieces."""
    opener = gzip.open if _is_gzip(path) else open
    try:
        with opener(path, "rb") as file:
            while piece := file.read(64 * bgzf.BLOCK_BYTES):
                yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: not a whole .models.gz table: {error}; write or copy it again"
        ) from error


@contextmanager
def _appending_alone(path: Path) -> Iterator[None]:
    """Keep another process from appending to a table: of two at once one would be lost."""
    # Of its own: the table itself is replaced. On NFS it must be open for writing.
    lock = path.with_name(f".{path.name[:200]}.lock")
    while True:
        with open_to_append(lock) as file:
            with suppress(OSError):  # file systems without flock
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                mine = os.path.samestat(os.fstat(file.fileno()), lock.stat())
            except FileNotFoundError:
                mine = False
            if not mine:  # whoever had it before has removed it
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _copy_table(path: Path, file: BinaryIO) -> None:
    """Copy a table to an open file in blocks, without the mark of the end."""
    start = file.tell()
    if bgzf.is_bgzf(path):
        _require_end(path)
    with path.open("rb") as old:
        try:
            for block in bgzf.blocks(old):
                if block != bgzf.END:
                    file.write(block)
        except ValueError:
            file.seek(start)
            file.truncate()
        else:
            return
    for piece in _plain(path):
        file.write(bgzf.compress(piece))
