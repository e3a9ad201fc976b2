"""All files of a finished scan that other programs take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hlmm_dask.durable import sweep
from hlmm_dask.errors import InputError
from hlmm_dask.export import Values
from hlmm_dask.formats.effects import Effect, columns_for, require_columns
from hlmm_dask.formats.gwas_vcf import index_path, write_gwas_vcf
from hlmm_dask.formats.rows import Reader, human_number, order_by
from hlmm_dask.formats.study import Study, metadata_path, write_metadata
from hlmm_dask.formats.tables import LDSC, REGENIE, SSF, write_table
from hlmm_dask.store import ResultsStore

_TABLES = {"ssf": SSF, "ldsc": LDSC, "regenie": REGENIE}
_VCF = "gwas-vcf"
FORMATS = (*_TABLES, _VCF)


def choose(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """Split a comma-separated choice; an `InputError` names what is not known."""
    chosen = tuple(dict.fromkeys(item.strip() for item in text.split(",")))
    for item in chosen:
        if item not in known:
            raise InputError(f"{option} '{item}': expected one or more of {','.join(known)}")
    return chosen


def targets(outprefix: str, formats: Sequence[str], effects: Sequence[str]) -> list[Path]:
    """Files that are written."""
    paths = []
    for name in formats:
        if name == _VCF:
            path = _vcf_path(outprefix)
            paths += [path, index_path(path)]
            continue
        for effect in effects:
            path = _table_path(outprefix, effect, name)
            paths += [path, metadata_path(path)] if name == "ssf" else [path]
    return paths


def check_targets(
    outprefix: str, formats: Sequence[str], effects: Sequence[str], *, overwrite: bool
) -> None:
    """Raise an `InputError` if a file is there that may not be replaced."""
    for path in targets(outprefix, formats, effects):
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a file or nothing; move it away")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists; give --overwrite to replace it")


def write_formats(
    store: ResultsStore,
    outprefix: str,
    *,
    formats: Sequence[str],
    effects: Sequence[Effect],
    extra: Mapping[str, Values] | None = None,
    assembly: str | None = None,
) -> list[str]:
    """Write files in the formats of other programs.

    Memory is that of some blocks, and 16 bytes a variant where the variants must be sorted.

    Parameters
    ----------
    store : ResultsStore
        A complete store.
    outprefix : str
        Start of the files' names.
    formats : sequence of str
        Of `FORMATS`.
    effects : sequence of Effect
        Effects to write.
    extra : mapping of str to (n_variants,) float64, optional
        Columns that are not in the store (the dispersion effects).
    assembly : str, optional
        Genome assembly, for the metadata.

    Returns
    -------
    list of str
        One line a file: variants written, and left out by reason.

    Raises
    ------
    StoreError
        If a block is missing or damaged.
    OSError
        If the disk is full or can't be written.
    """
    store.require_intact()
    store.require_complete()
    require_columns(store)
    start = Path(f"{outprefix}x").absolute()
    sweep(start.parent, f"{start.name.removesuffix('x')}.")
    study = Study.of(store, assembly)
    reader = Reader(store, columns_for(effects, store.columns), extra or {})
    notes = []
    for name in formats:
        if name == _VCF:
            ranks: dict[str, int] = {}
            order = order_by(store, lambda contig: ranks.setdefault(contig, len(ranks)))  # noqa: B023  # called in this turn
            notes.append(
                write_gwas_vcf(
                    effects, reader.frames(order), _vcf_path(outprefix), contigs=ranks,
                    study=study, n_variants=store.n_variants,
                )
            )  # fmt: skip
            continue
        order = order_by(store, human_number) if name == "ssf" else None
        for effect in effects:
            path = _table_path(outprefix, effect.name, name)
            about = metadata_path(path) if name == "ssf" else None
            frames = reader.frames(order)
            notes.append(write_table(_TABLES[name], effect, frames, path, describes=about))
            if about is not None:
                write_metadata(path, about, effect, study)
    return notes


def _table_path(outprefix: str, effect: str, name: str) -> Path:
    return Path(f"{outprefix}.{effect}{_TABLES[name].suffix}")


def _vcf_path(outprefix: str) -> Path:
    return Path(f"{outprefix}.gwas.vcf.gz")
