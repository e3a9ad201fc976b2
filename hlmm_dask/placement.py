"""A store in its place: made aside and renamed, cleaned up after a kill, mended after damage."""

import errno
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from hlmm_dask.durable import (
    PRIVATE_FOLDER,
    aside,
    checksum_of,
    leftovers,
    linked,
    read_record,
    rename,
    sweep,
    sync,
    write_record,
)
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.json_files import AT_LEAST_1, check_shape
from hlmm_dask.layout import (
    FORMAT,
    LARGEST_BLOCK,
    METADATA,
    MOST_COLUMNS,
    Layout,
    build,
    copy_built,
    read_attrs,
)
from hlmm_dask.lock import refuse_if_held

RUN_FOLDER = ".run"
MANIFEST_FILE = "manifest.json"
LOCK_FILE = "lock.json"
_FOLDERS = frozenset(
    {RUN_FOLDER, f"{RUN_FOLDER}/blocks", "results", "column", "column/c", *METADATA}
)
_REMOVALS = 5
_MANIFEST = {
    "format": str,
    "n_variants": AT_LEAST_1,
    "block_size": range(1, LARGEST_BLOCK + 1),
    "columns": [str],
    "count_a2": bool,
    "fingerprint": {
        str: object,
        "fit_covariates?": bool,
        "loco?": bool,
        "exclude_window?": (None, float),
    },
    "files": {str: str},
}


def make_store(
    target: Path,
    layout: Layout,
    *,
    variants: Iterable[pd.DataFrame],
    fingerprint: Mapping[str, Any],
    attrs: Mapping[str, Any],
    count_a2: bool,
    overwrite: bool,
    like: Path | None = None,
) -> None:
    """Make an empty store aside and move it to its place; see `ResultsStore.create`."""
    if layout.n_variants < 1 or not 1 <= layout.block_size <= LARGEST_BLOCK:
        raise StoreError(
            f"{target}: needs at least one variant and a block size from 1 to {LARGEST_BLOCK}"
        )
    if len(set(layout.columns)) != len(layout.columns):
        raise StoreError(f"{target}: column names are not unique")
    check_place(target, overwrite=overwrite)
    new = aside(target)
    try:
        if like is None:
            build(new, layout, variants=variants, attrs=attrs, count_a2=count_a2)
        else:
            names = read_manifest(like)["files"]
            copy_built(new, layout, like, names, attrs=attrs, count_a2=count_a2)
        manifest = {
            "format": FORMAT,
            "n_variants": layout.n_variants,
            "block_size": layout.block_size,
            "columns": list(layout.columns),
            "count_a2": count_a2,
            "fingerprint": dict(fingerprint),
            "files": _checksums(new),
        }
        (new / RUN_FOLDER).mkdir(PRIVATE_FOLDER)
        (new / RUN_FOLDER / "blocks").mkdir()
        write_record(new / RUN_FOLDER / MANIFEST_FILE, manifest)
        _move_in(new, target, overwrite=overwrite)
    except BaseException:
        # Zarr's thread may still be writing there when a signal has ended the waiting for it.
        for _ in range(_REMOVALS):
            shutil.rmtree(new, ignore_errors=True)
            time.sleep(0.02)
        raise


def clean_up(target: Path) -> None:
    """Undo what killed processes left half done beside a store: one of old and new is whole."""
    for old in leftovers(target.parent, target.name, "old"):
        with suppress(OSError):
            if target.exists():
                _remove(old, target)
            else:
                # Killed between the two renames of `_move_in`: the old one takes its name back.
                old.rename(target)
    sweep(target.parent, target.name)


def damaged_files(target: Path, manifest: Mapping[str, Any]) -> list[str]:
    """List the files that never change, and have: metadata, and what is known of the variants."""
    return [
        name
        for name, checksum in manifest["files"].items()
        if not (target / name).is_file() or checksum_of(target / name) != checksum
    ]


def mend_store(
    target: Path,
    layout: Layout,
    names: Iterable[str],
    *,
    variants: Iterable[pd.DataFrame],
    attrs: Mapping[str, Any],
    count_a2: bool,
) -> None:
    """Write damaged files that never change again, from what the store was made from."""
    new = aside(target)
    try:
        build(new, layout, variants=variants, attrs=attrs, count_a2=count_a2)
        _checksums(new)
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            rename(new / name, target / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_place(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where no store can or may be made."""
    parent = target.parent
    if not parent.is_dir():
        raise InputError(f"{parent}: folder does not exist; make it or give another OUTPREFIX")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{parent}: folder can't be written; give another OUTPREFIX")
    if not target.exists():
        return
    if not is_store(target):
        raise StoreError(
            f"{target}: exists and is not a results store; move it away or give another OUTPREFIX"
        )
    if not overwrite:
        raise StoreError(f"{target}: exists; give --resume to go on with it or --overwrite")
    refuse_if_held(target / RUN_FOLDER / LOCK_FILE)


def is_store(target: Path) -> bool:
    """Whether a folder is a results store, perhaps a damaged one, which may be replaced."""
    run, ours = target / RUN_FOLDER, False
    with suppress(StoreError, OSError):
        ours = read_attrs(target, {"source": str})["source"] == FORMAT
    parts = ((run / MANIFEST_FILE).is_file(), (run / "blocks").is_dir(), ours)
    return sum((*parts, (target / "results").is_dir())) >= 2


def refuse_links(target: Path) -> None:
    """Raise a `StoreError` for a symbolic link, pipe or device in a store, which no scan makes.

    What lies deeper is written by renaming and removed by unlinking, which follow no link.
    """
    for folder in (target, target / RUN_FOLDER):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise linked(Path(entry.path))
                if not (entry.is_file() or entry.is_dir()):
                    raise StoreError(f"{entry.path}: neither file nor folder; remove it")


def require_kinds(target: Path) -> None:
    """Raise a `StoreError` for a folder in place of a file, a file for a folder, or a link."""
    for folder, names, files in os.walk(target):
        for name in (*names, *files):
            path = Path(folder, name)
            if path.is_symlink():
                raise linked(path)
            if not (path.is_file() or path.is_dir()):
                raise StoreError(f"{path}: neither file nor folder; remove it")
            if (name in names) != (str(path.relative_to(target)) in _FOLDERS):
                found, expected = ("folder", "file") if name in names else ("file", "folder")
                raise StoreError(
                    f"{path}: a {found} where a results store has a {expected}; restore it, or "
                    "start again with --overwrite"
                )


def place_of(path: str | os.PathLike[str]) -> Path:
    """Return where a store is or will be: a link is followed, but not into a missing folder."""
    target = Path(os.path.realpath(path))
    if os.path.islink(path) and not target.parent.is_dir():
        raise InputError(
            f"{path}: a link to {target}, and there is no folder {target.parent}; make it, or "
            "remove the link"
        )
    return target


def require_writable(target: Path) -> None:
    """Raise an `InputError` unless a run may go on with this store."""
    for folder in (target, target / RUN_FOLDER, target / RUN_FOLDER / "blocks", target / "results"):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: not writable, the run can't go on there; change its permissions or "
                "give another OUTPREFIX"
            )


def read_manifest(target: Path) -> dict[str, Any]:
    """Return the manifest of a results store.

    Raises
    ------
    StoreError
        If there is none, it is damaged, or of another version.
    """
    path = target / RUN_FOLDER / MANIFEST_FILE
    try:
        there = path.is_file()
    except PermissionError:
        raise not_readable(path) from None
    if not there:
        if is_store(target):
            raise StoreError(f"{path}: missing; restore it, or start again with --overwrite")
        found = "is not a results store" if target.exists() else "does not exist"
        raise StoreError(f"{target}: {found}; expected an OUTPREFIX.zarr written by a scan")
    try:
        manifest = read_record(path, {"format": str})
        if manifest["format"] == FORMAT:
            check_shape(manifest, _MANIFEST)
            if not len(set(manifest["columns"])) == len(manifest["columns"]) <= MOST_COLUMNS:
                raise ValueError("columns are repeated, or too many")
    except ValueError as error:
        raise StoreError(
            f"{path}: damaged, or of another version ({error}); restore it, or start again with "
            "--overwrite"
        ) from None
    except PermissionError:
        raise not_readable(path) from None
    if manifest["format"] != FORMAT:
        raise StoreError(
            f"{target}: written as '{manifest['format']}', expected '{FORMAT}'; "
            "use the version of the package that wrote it, or --overwrite"
        )
    return manifest


def not_readable(path: Path) -> StoreError:
    """Say that a store is another user's, whose scan runs."""
    return StoreError(f"{path}: not readable; only its owner can read a scan that is not finished")


def _move_in(new: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a whole store to its place, and remove the one that it replaces."""
    check_place(target, overwrite=overwrite)
    old = None
    if target.exists():
        old = aside(target, "old")
        _put(target, old, target)
    try:
        _put(new, target, target)
    except StoreError:
        if old is not None and not target.exists():
            rename(old, target)
        raise
    sync(target.parent)
    if old is not None:
        _remove(old, target)


def _put(old: Path, new: Path, target: Path) -> None:
    try:
        rename(old, new)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            text = "exists; another run made it at the same time"
            raise StoreError(f"{target}: {text}") from error
        raise StoreError(f"{target}: {error.strerror}") from error


def _remove(old: Path, target: Path) -> None:
    """Remove a replaced store; what has its kind of name is whole, so that it can be put back."""
    shutil.rmtree(old.rename(aside(target)), ignore_errors=True)


def _checksums(path: Path) -> dict[str, str]:
    """Checksums of all files in a folder, each on disk by then."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        sync(file)
    return {str(file.relative_to(path)): checksum_of(file) for file in files}
