"""What is known about a run: its store, and the record of it where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hlmm_dask.errors import InputError
from hlmm_dask.json_files import COUNT, SCALAR, SECONDS, read_json
from hlmm_dask.models.dispersion import DispersionOptions
from hlmm_dask.scanning.events import BlockFailed
from hlmm_dask.scanning.failures import read_failures, read_stop
from hlmm_dask.scanning.summary import status_counts
from hlmm_dask.schema import nothing_fitted, phenotype_unit
from hlmm_dask.store import ResultsStore
from hlmm_dask.transforms import TRANSFORMS, title_of
from hlmm_dask.view.thinned import Thinned

# λ_GC outside of these is worth a word.
LAMBDA = (0.95, 1.05)
MIN_FOR_LAMBDA = 1000

# Attributes of a scan's store.
ATTRS = {
    "model": str,
    "phenotype": str,
    "transform?": frozenset(TRANSFORMS),
    "n_analysed_samples": COUNT,
    "first_variant": COUNT,
    "effect_allele": frozenset({"A1", "A2"}),
    "hlmm_dask?": str,
}
_VALUE = (*SCALAR, [SCALAR])
_PATH = (None, str)
_TEXTS = [{"text": str}]
_NULL = {
    "phenotype": str,
    "transform?": str,
    "accounting": [{"step": str, "n": COUNT}],
    "effects": [{"part": str, "name": str, "effect": (None, float), "se": (None, float)}],
    "loglik": float,
    "h2?": (None, float),
    "h2_se?": (None, float),
    "n_random": COUNT,
}
_OPTIONS = {
    str: _VALUE,
    "genofile?": (None, str, [str]),
    "phenofile?": _PATH,
    "mean_covar?": _PATH,
    "var_covar?": _PATH,
    "random_gts?": _PATH,
    "mean_covar_cols?": _PATH,
    "var_covar_cols?": _PATH,
    "missing_char?": (None, str, [str]),
    "h2_init?": (None, float),
    "dispersion?": bool,
    "dispersion_blocks?": (str, int),
    "dispersion_exclude?": (None, float),
    "dispersion_slope_error?": bool,
}
# OUTPREFIX.run.json
_RECORD = {
    "runs": [
        {
            "started?": (None, str),
            "ended?": (None, str),
            "outcome?": (None, str),
            "command?": [str],
            "directory?": str,
            "versions?": {str: _VALUE},
            "machine?": {str: _VALUE},
            "options?": (None, _OPTIONS),
            "phenotypes?": [_NULL],
            "seconds?": {str: SECONDS},
            "notes?": _TEXTS,
            "warnings?": _TEXTS,
        }
    ]
}


@dataclass(frozen=True)
class Facts:
    """What is known about a run.

    Attributes
    ----------
    attrs, fingerprint : mapping
        Of the results store.
    n_blocks, n_done : int
        Blocks, and those with results.
    counts : dict of str to int
        Variants by status.
    summary : mapping
        Of the finished scan, empty before.
    run : mapping
        The last run in OUTPREFIX.run.json, empty without.
    phenotype : mapping
        Sample accounting and null model in it, empty without.
    options : mapping
        Of the command; empty where not known.
    failures : tuple of BlockFailed
        Blocks that failed in the latest run and have no results.
    stopped_by : str
        What ended the latest run early.
    """

    attrs: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    n_blocks: int
    n_done: int
    counts: Mapping[str, int]
    summary: Mapping[str, Any]
    run: Mapping[str, Any]
    phenotype: Mapping[str, Any]
    options: Mapping[str, Any]
    failures: tuple[BlockFailed, ...]
    stopped_by: str

    @property
    def transform(self) -> str:
        """Of the phenotype."""
        return str(self.attrs.get("transform", "none"))

    @property
    def title(self) -> str:
        """Name of the phenotype with its transform."""
        return title_of(str(self.attrs["phenotype"]), self.transform)

    @property
    def dispersion_options(self) -> DispersionOptions:
        """How dispersion effects are estimated: as the command said, where it is known."""
        given = self.options
        return DispersionOptions(
            given.get("dispersion_blocks", "auto"),
            given.get("dispersion_exclude"),
            given.get("dispersion_slope_error", False),
        )

    @property
    def unit(self) -> str:
        """Unit of the effects on the mean, per allele."""
        return phenotype_unit(self.fingerprint)


def gather(store: ResultsStore, outprefix: str) -> Facts:
    """Read what a run has left.

    Parameters
    ----------
    store : ResultsStore
        Its results.
    outprefix : str
        Where its record is looked for: OUTPREFIX.run.json, or, for one of several phenotypes,
        that of the OUTPREFIX before its name.
    """
    attrs = store.attrs(ATTRS)
    markers = list(store.markers())
    done = {int(marker["block"]) for marker in markers}
    runs = _read_record(outprefix)
    run = runs[-1] if runs else {}
    # A run that went on with finished blocks has fitted the null model all the same.
    phenotypes = [
        p
        for p in run.get("phenotypes", [])
        if (p.get("phenotype"), p.get("transform", "none"))
        == (attrs["phenotype"], attrs.get("transform", "none"))
    ]
    return Facts(
        attrs=attrs,
        fingerprint=store.fingerprint,
        n_blocks=store.n_blocks,
        n_done=len(done),
        counts=status_counts(markers),
        summary=store.summary() or {},
        run=run,
        phenotype=phenotypes[-1] if phenotypes else {},
        options=run.get("options") or {},
        failures=tuple(f for f in read_failures(store.run_dir) if f.block not in done),
        stopped_by="" if store.is_finished else read_stop(store.run_dir),
    )


def _read_record(outprefix: str) -> list[dict[str, Any]]:
    name = Path(outprefix).name
    while name:
        path = Path(outprefix).with_name(f"{name}.run.json")
        try:
            return list(read_json(path, _RECORD)["runs"])
        except FileNotFoundError:
            name = name.rpartition(".")[0]
        except (ValueError, IsADirectoryError) as error:
            raise InputError(
                f"{path}: not the record of a run ({error}); move it away, or restore it"
            ) from error
    return []


def warnings_of(facts: Facts, thinned: Thinned) -> list[str]:
    """Say what a reader of the results should know, one line each."""
    lines: list[str] = []
    for text in map(str, facts.phenotype.get("cautions", ())):
        lines.append(f"{text[0].upper()}{text[1:]}.")
    missing = facts.n_blocks - facts.n_done
    if missing:
        lines.append(
            f"The scan is not complete: {missing:,} of {facts.n_blocks:,} blocks have no results."
        )
    if facts.stopped_by:
        lines.append(f"The run stopped: {facts.stopped_by}")
    lines += [f"Block {each.block} failed: {each.error}" for each in facts.failures[:20]]
    for test in thinned.tests:
        if test.df > 1:  # follows from the others
            continue
        value = thinned.lambda_gc(test.name)
        if thinned.n_tested(test.name) < MIN_FOR_LAMBDA:
            continue
        if not LAMBDA[0] <= value <= LAMBDA[1]:
            lines.append(
                f"λ_GC of the test '{test.short}' is {value:.3f}: {_meaning(test.name, value)}"
            )
        for i, label in enumerate(thinned.classes.labels):
            part = thinned.lambda_gc(test.name, i)
            n = int(thinned.counts[thinned.tests.index(test), i].sum())
            if n >= MIN_FOR_LAMBDA and abs(part - value) > 0.1:
                lines.append(
                    f"λ_GC of the test '{test.short}' is {part:.3f} among the {n:,} variants with "
                    f"a frequency of {label}, against {value:.3f} overall."
                )
    for label in ("not_converged", "unbounded"):
        if n := facts.counts.get(label, 0):
            lines.append(f"{n:,} variants have no estimates: {label.replace('_', ' ')}.")
    total = sum(facts.counts.values())
    left_out = total - facts.counts.get("ok", 0)
    if reason := nothing_fitted(facts.counts):
        lines.append(f"{reason[0].upper()}{reason[1:]}.")
    elif total and left_out > 0.2 * total:
        lines.append(f"{left_out:,} of {total:,} variants were left out; see their status below.")
    if thinned.no_dispersion:
        lines.append(f"No dispersion effects: {thinned.no_dispersion}.")
    lines += [f"{line[0].upper()}{line[1:]}." for line in thinned.cautions]
    lines += [str(each["text"]) for each in facts.run.get("warnings", [])]
    return list(dict.fromkeys(lines))


def _meaning(test: str, value: float) -> str:
    if value < 1.0:
        return "the test is conservative; are there many rare variants, or related samples?"
    if test == "mean":
        return "many small effects, or structure and relatedness that the model does not hold."
    if test == "variance":
        return (
            "variance effects that follow from effects on the mean (see the line below), the scale "
            "or the outliers of the phenotype, or structure."
        )
    return "more than the effects on the mean explain: the scale of the phenotype, its outliers?"
