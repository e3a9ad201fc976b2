"""The command line of --model lmm: its options, where the matrix comes from, and whose it is."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from distributed import Client
from distributed.system import MEMORY_LIMIT

from hlmm_dask.durable import working_folder
from hlmm_dask.errors import InputError
from hlmm_dask.genotypes.contigs import autosomes_of, contig_runs, is_autosome
from hlmm_dask.genotypes.plink import PlinkGenotypes, open_plink
from hlmm_dask.ids import id_hints, ids_of, shown_ids
from hlmm_dask.kernels.relationship import Kind
from hlmm_dask.relationship.files import read_kinship
from hlmm_dask.relationship.kinship import Id, Kinship
from hlmm_dask.scanning.kinship import RelationshipParts, relationship_matrix, relationship_parts
from hlmm_dask.scanning.null_input import NullInput
from hlmm_dask.scanning.probe import probe_workers
from hlmm_dask.scanning.relationships import DECOMPOSITION_MATRICES, Relationships, identity_of

if TYPE_CHECKING:
    from hlmm_dask.scanning.job import ScanJob


@dataclass(frozen=True)
class KinshipSource:
    """Where a job's relationship matrix comes from; all of it is checked.

    Attributes
    ----------
    given : Kinship or None
        The matrix, if it was read.
    genotypes : PlinkGenotypes or None
        What else it will be computed from.
    samples : list of (str, str)
        And whose frequencies: all samples of the scanned genotypes that are in these.
    analysed : list of (str, str)
        And for whom.
    kind, min_maf
        See `RelationshipModel`.
    autosomes : int or None
        Number of the chromosomes whose variants are used, None for all.
    parts : bool
        Whether chromosomes are left out.
    """

    given: Kinship | None
    genotypes: PlinkGenotypes | None
    samples: list[Id]
    analysed: list[Id]
    kind: Kind
    min_maf: float
    autosomes: int | None
    parts: bool

    @property
    def n_matrices(self) -> int:
        """Matrices that are decomposed, at the most."""
        return 1 + (
            len(_contigs(self.genotypes, self.autosomes)) if self.parts and self.genotypes else 0
        )

    def compute(
        self, folder: Path, client: Client | None, no_workers_timeout: float
    ) -> Relationships:
        """Compute the matrix, on a cluster or here; eigenvectors will be kept in the folder."""
        if self.given is not None:
            return Relationships(self.given, identity_of(self.given), folder)
        assert self.genotypes is not None
        identity = {
            "kinship_genotypes": self.genotypes.identity(),
            "kinship_kind": self.kind,
            "kinship_min_maf": self.min_maf,
            "kinship_autosomes": self.autosomes,
        }
        if client is not None:
            probe_workers(client, self.genotypes.bed_sizes, [])
        matrices: Kinship | RelationshipParts
        if self.parts:
            matrices = relationship_parts(
                self.genotypes, folder, kind=self.kind, samples=self.samples,
                among=self.analysed, min_maf=self.min_maf, autosomes=self.autosomes, client=client,
                no_workers_timeout=no_workers_timeout,
            )  # fmt: skip
        else:
            matrices = relationship_matrix(
                self.genotypes, kind=self.kind, samples=self.samples, among=self.analysed,
                min_maf=self.min_maf, autosomes=self.autosomes, client=client,
                no_workers_timeout=no_workers_timeout,
            )  # fmt: skip
        return Relationships(matrices, identity, folder)


def open_kinship(
    job: "ScanJob", genotypes: PlinkGenotypes, inputs: Sequence[NullInput]
) -> KinshipSource | None:
    """Read or open what the matrix comes from; None for other models.

    Raises
    ------
    InputError
        If it can't be used, lacks an analysed sample, or is too large to be decomposed here.
    """
    if job.model != "lmm":
        return None
    everyone = ids_of(genotypes.samples)
    autosomes = autosomes_of(job.autosome_num, all_chromosomes=job.grm_all_chromosomes)
    given, source = None, None
    if job.kinship is not None:
        path = job.kinship
        if not Path(path).exists() and Path(f"{path}.grm.bin").exists():
            path += ".grm.bin"
        given = read_kinship(path, samples=everyone)
        name, people = path, given.ids
    else:
        assert job.grm_from is not None
        source = open_plink(job.grm_from)
        name, people = job.grm_from, ids_of(source.samples)
        contigs = _contigs(source, autosomes)
        if job.loco and len(contigs) == 1:
            raise InputError(
                f"{name}: all variants for the matrix are on chromosome {contigs[0]}; with --loco "
                "nothing would be left of it"
            )
    analysed: dict[Id, None] = {}
    there = set(people)
    for one in inputs:
        ids = ids_of(one.aligned.ids)
        analysed |= dict.fromkeys(ids)
        if absent := [key for key in ids if key not in there]:
            raise InputError(
                f"{name}: {len(absent):,} of {len(ids):,} samples with phenotype "
                f"'{one.aligned.phenotype_name}' are not in it (first: {shown_ids(absent)}); "
                + "".join(f"{hint}; " for hint in id_hints(absent, people))
                + "compute the matrix for all of them, or leave them out of the phenotype file"
            )
    samples = [key for key in everyone if key in there]
    _require_memory(max(len(one.aligned.y) for one in inputs))
    return KinshipSource(
        given, source, samples, list(analysed), job.grm_kind, job.grm_min_maf, autosomes, job.loco
    )


@contextmanager
def relationships(
    source: KinshipSource,
    client: Client | None,
    beside: Path | None = None,
    *,
    no_workers_timeout: float = 300.0,
) -> Iterator[Relationships]:
    """Compute the matrix; its files lie beside the output, or in a temporary folder, meanwhile."""
    with ExitStack() as stack:
        if beside is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="hlmm_dask_")))
        else:
            folder = stack.enter_context(working_folder(beside))
        yield source.compute(folder, client, no_workers_timeout)


def array_bytes(source: KinshipSource | None, inputs: Sequence[NullInput]) -> int:
    """Bytes of eigenvectors and the like on disk while the scan runs, for each phenotype."""
    if source is None:
        return 0
    return 16 * max(len(one.aligned.y) for one in inputs) ** 2 * source.n_matrices


def _contigs(genotypes: PlinkGenotypes, autosomes: int | None) -> list[str]:
    found = contig_runs(piece["contig"].to_numpy() for piece in genotypes.iter_variants())[0]
    return [name for name in found if is_autosome(name, autosomes)]


def _require_memory(n: int) -> None:
    needed = DECOMPOSITION_MATRICES * 8 * n * n
    if needed > MEMORY_LIMIT:
        raise InputError(
            f"memory: the eigenvectors of a matrix of {n:,} samples need {needed:,} bytes, this "
            f"machine has {MEMORY_LIMIT:,}; take a larger one, or fewer samples"
        )
