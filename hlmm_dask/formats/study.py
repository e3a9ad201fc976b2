"""What a store says of its study, and the file that tells the GWAS catalogue."""

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

from hlmm_dask.durable import replacing
from hlmm_dask.formats.effects import Effect
from hlmm_dask.json_files import COUNT
from hlmm_dask.store import ResultsStore
from hlmm_dask.transforms import TRANSFORMS, title_of

# What the catalogue writes where something was not reported.
UNKNOWN = "NR"
_ATTRS = {
    "phenotype?": str,
    "transform?": frozenset(TRANSFORMS),
    "n_analysed_samples?": COUNT,
    "hlmm_dask?": str,
    "model?": str,
}


@dataclass(frozen=True)
class Study:
    """What is known of a scan.

    Attributes
    ----------
    phenotype : str
        Its name in the file, with its transform.
    n_samples : int
        Samples of the null model.
    software : str
        Name and version.
    model : str
        HLM or HLMM.
    unit : str
        Unit of the phenotype that effects on the mean are given in.
    assembly : str
        Genome assembly of the positions.
    """

    phenotype: str
    n_samples: int
    software: str
    model: str
    unit: str
    assembly: str

    @classmethod
    def of(cls, store: ResultsStore, assembly: str | None) -> Self:
        """Read it from a store."""
        about = store.attrs(_ATTRS)
        fitted = store.fingerprint.get("fit_covariates", False)
        return cls(
            phenotype=title_of(about.get("phenotype", UNKNOWN), about.get("transform", "none")),
            n_samples=about.get("n_analysed_samples", 0),
            software=f"hlmm-dask {about.get('hlmm_dask', '')}".strip(),
            model=str(about.get("model", "")),
            unit="the phenotype's own" if fitted else "standard deviations of the null model",
            assembly=assembly or UNKNOWN,
        )


def write_metadata(data: Path, path: Path, effect: Effect, study: Study) -> None:
    """Write `metadata_path`, which names a GWAS-SSF file by its MD5 and says what is in it."""
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    trait = study.phenotype if effect.name == "mean" else f"{effect.name} of {study.phenotype}"
    notes = (
        f"beta: {effect.doc} ({study.model}; unit of the phenotype: {study.unit}). "
        "effect_allele and other_allele are as in the genotype file, not compared with a reference."
    )
    text = f"""\
# Study meta-data
author_notes: {_quoted(notes)}
date_metadata_last_modified: {date.today().isoformat()}

# Trait Information
trait_description:
  - {_quoted(trait)}

# Genotyping Information
genome_assembly: {_quoted(study.assembly)}
coordinate_system: 1-based

# Sample Information
samples:
  - sample_size: {study.n_samples}
    case_control_study: false

# Summary Statistic information
data_file_name: {_quoted(data.name)}
file_type: GWAS-SSF v1.0
data_file_md5sum: {digest}
analysis_software: {_quoted(study.software)}

# Harmonization status
is_harmonised: false
is_sorted: true
"""
    with replacing(path) as out:
        out.write(text.encode(errors="replace"))


def metadata_path(data: Path) -> Path:
    """Name of the metadata file beside a GWAS-SSF file."""
    return data.with_name(f"{data.name}-meta.yaml")


def _quoted(text: Any) -> str:
    # A string of JSON is one of YAML.
    return json.dumps(str(text), ensure_ascii=False)
