"""The report of a scan: one HTML file that needs nothing beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_dask.durable import replacing
from hlmm_dask.errors import ChangedInputError
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.facts import Facts, gather, warnings_of
from hlmm_dask.view.leads import AtHand, at_hand, lead_rows
from hlmm_dask.view.page_data import page_json
from hlmm_dask.view.page_parts import (
    definitions,
    lead_table,
    legend,
    plot,
    spread_picture,
)
from hlmm_dask.view.reading import require_results, thin
from hlmm_dask.view.run_sections import accounting_section, run_section
from hlmm_dask.view.spread import of_null
from hlmm_dask.view.terminal import duration
from hlmm_dask.view.thinned import GENOME_WIDE, AssociationTest, Thinned
from hlmm_dask.view.verdicts import read_loci, verdict_section
from hlmm_dask.view.wording import decimals, escape, estimate, number, p_value

# Points of the plots and variants kept for their p-value: the page stays below 10 MB.
_BINS, _CAP = 600, 5000
_MAX_SPREADS = 12


@dataclass(frozen=True)
class Report:
    """All that the report of a scan says.

    Attributes
    ----------
    store : ResultsStore
        The results.
    facts : Facts
        Of the run.
    thinned : Thinned
        Of the results.
    here : AtHand or str
        Genotypes and phenotype, or why they can't be had.
    leads : dict of str to array
        By test: rows of the points.
    window : int
        Base pairs within which a weaker variant is no lead.
    alleles : dict of int to (str, str)
        Of the leads, by index: other allele, effect allele.
    loci : DataFrame or None
        What ``hlmm-loci`` found, where it ran.
    """

    store: ResultsStore
    facts: Facts
    thinned: Thinned
    here: AtHand | str
    leads: Mapping[str, NDArray[np.intp]]
    window: int
    alleles: Mapping[int, tuple[str, str]]
    loci: pd.DataFrame | None = None

    @property
    def has_variance(self) -> bool:
        """Whether there are effects on the variance."""
        return "var" in self.thinned.points

    @property
    def drawn_leads(self) -> dict[int, list[str]]:
        """Leads drawn by genotype, the best of each test in turn: row, and p by test."""
        return _drawn(self.thinned, self.leads)


def read_report(outprefix: str, *, window: int = 500_000) -> Report:
    """Read a scan, finished or not, for its report.

    Parameters
    ----------
    outprefix : str
        Of the scan; OUTPREFIX.zarr is meant where that is given.
    window : int
        Base pairs within which a weaker variant is no lead of its own.

    Raises
    ------
    InputError, StoreError
        If there is no results store, it is damaged, or it has no results yet.
    """
    store = ResultsStore.open(f"{outprefix}.zarr")
    store.require_intact()
    facts = gather(store, outprefix)
    require_results(store)
    thinned = thin(store, dispersion=facts.dispersion_options, n_bins=_BINS, cap=_CAP)
    here = at_hand(store, facts)
    try:
        leads = _leads(thinned, here, window)
    except ChangedInputError as error:
        here = str(error)
        leads = _leads(thinned, here, window)
    rows = sorted({row for each in leads.values() for row in each.tolist()})
    alleles = _alleles(store, thinned.points["index"][rows].tolist())
    table = Path(f"{outprefix}.loci.tsv")
    loci = read_loci(table) if table.exists() else None
    return Report(store, facts, thinned, here, leads, window, alleles, loci)


def write_report(report: Report, path: Path, scales: str = "") -> None:
    """Write the page, whole or not at all; ``scales`` is the section that compares scans."""
    with replacing(path) as file:
        file.write(_page(report, scales).encode())


def _leads(thinned: Thinned, here: AtHand | str, window: int) -> dict[str, NDArray[np.intp]]:
    """Rows of the leads by test; genotypes, also those to be drawn, must be what was scanned."""
    genotypes = here if isinstance(here, AtHand) else None
    leads = {t.name: lead_rows(thinned, t.name, genotypes, window=window) for t in thinned.tests}
    if genotypes is not None:
        for index in thinned.points["index"][[*_drawn(thinned, leads)]].tolist():
            genotypes.scanned.require_same(index, index + 1)
    return leads


def _drawn(thinned: Thinned, leads: Mapping[str, NDArray[np.intp]]) -> dict[int, list[str]]:
    points = thinned.points
    chosen: dict[int, list[str]] = {}
    for rank in range(_MAX_SPREADS):
        for test in thinned.tests:
            for row in leads[test.name][rank : rank + 1].tolist():
                y = float(points[test.column][row])
                if (row in chosen or len(chosen) < _MAX_SPREADS) and (rank == 0 or y >= _least()):
                    chosen.setdefault(row, []).append(f"{test.short} {p_value(y)}")
    return chosen


def _alleles(store: ResultsStore, indices: list[int]) -> dict[int, tuple[str, str]]:
    rows, held, chunk = store.names_rows, None, -1
    found: dict[int, tuple[str, str]] = {}
    for index in indices:
        if index // rows != chunk:
            chunk = index // rows
            stop = min((chunk + 1) * rows, store.n_variants)
            held = store.read_names("variant_allele", chunk * rows, stop)
        assert held is not None
        other, effect = held[index % rows].tolist()
        found[index] = (other, effect)
    return found


def _page(report: Report, scales: str) -> str:
    folder = Path(__file__).parent
    style, script = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    what = "mean and variance" if report.has_variance else "the mean"
    title = f"Phenotype {report.facts.title}: effects on {what}"
    sections = [
        _warnings(report),
        *(_test_section(report, t, test) for t, test in enumerate(report.thinned.tests)),
        verdict_section(report.loci),
        *([_effects_section(report)] if report.has_variance else []),
        scales,
        _spread_section(report),
        accounting_section(report.facts),
        run_section(report.facts),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{_top(report)}{''.join(sections)}</main>"
        '<div class="tip" role="status"></div>'
        f'<script type="application/json" id="data">{page_json(report.thinned, report.facts.unit)}'
        f"</script><script>{script}</script></body></html>\n"
    )


def _top(report: Report) -> str:
    facts, thinned = report.facts, report.thinned
    figures = {
        "Model": str(facts.attrs["model"]),
        "Samples": f"{facts.attrs['n_analysed_samples']:,}",
        "Variants": f"{thinned.n_variants:,}",
        "Fitted": f"{thinned.n_fitted:,}",
    }
    for test in thinned.tests:
        n = _n_significant(report, test)
        loci = f"{n:,} locus" if n == 1 else f"{n:,} loci"
        figures[test.short.capitalize()] = f"λ {decimals(thinned.lambda_gc(test.name))} · {loci}"
    if "seconds" in facts.summary:
        figures["Time"] = duration(float(facts.summary["seconds"]))
    return definitions(figures)


def _n_significant(report: Report, test: AssociationTest) -> int:
    y = report.thinned.points[test.column]
    return int((y[report.leads[test.name]] >= _least()).sum())


def _least() -> float:
    return -float(np.log10(GENOME_WIDE))


def _warnings(report: Report) -> str:
    lines = warnings_of(report.facts, report.thinned)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="warn"><h2>To be kept in mind</h2><ul>{items}</ul></section>'


def _test_section(report: Report, t: int, test: AssociationTest) -> str:
    thinned = report.thinned
    entries = [("text", f"all, λ {decimals(thinned.lambda_gc(test.name))}")]
    for i, label in enumerate(thinned.classes.labels):
        if thinned.counts[t, i].any():
            entries.append((f"c{i}", f"MAF {label}, λ {decimals(thinned.lambda_gc(test.name, i))}"))
    n = _n_significant(report, test)
    distance = f"{report.window / 1000:g} kb"
    how, why = f"none better within {distance}", ""
    if isinstance(report.here, AtHand):
        how += ", or r² ≤ 0.1 with it"
    else:
        why = f"<p class='small muted'>By distance alone: {escape(report.here)}.</p>"
    what = f"{n} lead variants with p < 5e-8" if n != 1 else "1 lead variant with p < 5e-8"
    return (
        f"<section><h2>{escape(test.label)}</h2>"
        f"{plot('manhattan', f'Manhattan plot, {test.label}', t)}"
        f'<div class="pair"><div><h3>Quantiles by frequency</h3>'
        f"{plot('qq', f'QQ plot, {test.label}', t)}{legend(entries)}</div>"
        f"<div><h3>{escape(what)} ({how})</h3>"
        f"{why}{lead_table(_lead_cells(report, test), _lead_head(report, test))}"
        "</div></div></section>"
    )


def _lead_head(report: Report, test: AssociationTest) -> list[str]:
    unit = report.facts.unit
    second = "Dispersion (SE)" if test.name == "dispersion" else "Log variance (SE)"
    return [
        "Variant", "Chr", "Position", "Alleles", "MAF", f"Mean, {unit} (SE)",
        *([second] if report.has_variance else []), "p",
    ]  # fmt: skip


def _lead_cells(report: Report, test: AssociationTest) -> list[tuple[int, bool, list[str]]]:
    points = report.thinned.points
    rows = []
    for row in report.leads[test.name].tolist():
        other, effect = report.alleles[int(points["index"][row])]
        names = ["add"]
        if report.has_variance:
            names.append("dispersion" if test.name == "dispersion" else "var")
        effects = [estimate(points[name][row], points[f"{name}_se"][row]) for name in names]
        y = float(points[test.column][row])
        cells = [
            str(points["id"][row]), str(points["contig"][row]), f"{points['position'][row]:,}",
            f"{_short(effect)} / {_short(other)}",
            f"{points['minor_allele_frequency'][row]:.3f}", *effects, p_value(y),
        ]  # fmt: skip
        rows.append((row, y >= _least(), cells))
    return rows


def _short(allele: str) -> str:
    return allele if len(allele) <= 6 else f"{allele[:5]}…"


def _effects_section(report: Report) -> str:
    thinned = report.thinned
    entries = [("even", thinned.sample_label), ("accent", "p < 5e-8 in any test")]
    facts: dict[str, str] = {}
    if thinned.slope is None:
        said = f"No line: {thinned.no_dispersion}."
    else:
        errors, slope, band = thinned.slope_errors, number(thinned.slope), ""
        if thinned.slope_se is not None and errors is not None:
            slope += f" (SE {number(thinned.slope_se, 2)}, by {errors.blocks})"
            band = ", with its 95% confidence band"
        entries.append(("fit", f"fitted line, slope {slope}{band}"))
        said = (
            "The line is the effect on the log variance that goes with an effect on the mean, by "
            "robust regression through the origin, corrected for the noise of the effects on the "
            "mean. What is left of an effect on the variance is the dispersion effect."
        )
        facts = {
            f"Slope, log variance per {report.facts.unit}": slope,
            "λ before, variance effects": decimals(thinned.lambda_gc("variance")),
            "λ after, dispersion effects": decimals(thinned.lambda_gc("dispersion")),
        }
        if errors is not None and errors.terciles is not None:
            facts["Slope by size of the effect on the mean (thirds)"] = errors.terciles.text
    return (
        '<section><h2>Effect on the variance against effect on the mean</h2><div class="halves">'
        f"<div>{plot('effects', 'Effect on the log variance against effect on the mean')}"
        f"{legend(entries)}</div><div><p>{escape(said)}</p>{definitions(facts)}</div></div></section>"
    )


def _spread_section(report: Report) -> str:
    head = "<section><h2>The phenotype by genotype of the leads</h2>"
    if not isinstance(report.here, AtHand):
        return f"{head}<p>Not drawn: {escape(report.here)}.</p></section>"
    points = report.thinned.points
    figures = ""
    for row, tests in report.drawn_leads.items():
        index = int(points["index"][row])
        classes = of_null(report.here.counts(index), report.here.null)
        said = "; ".join(f"{c.copies} copies: mean {c.mean:.3f}, SD {c.sd:.3f}" for c in classes)
        effect = report.alleles[index][1]
        ps = ", ".join(f'<span class="nb">{escape(test)}</span>' for test in tests)
        figures += (
            f"<figure><figcaption>{escape(str(points['id'][row]))}</figcaption>"
            f'<div class="muted small">copies of {escape(_short(effect))}; p: '
            f"{ps}</div>{spread_picture(classes, said)}</figure>"
        )
    return (
        f"{head}<p>What is drawn: {escape(report.here.scale)}. Shape: density; bar: quartiles; dot "
        "and line: mean ± SD.</p>"
        f'<div class="spreads">{figures}</div></section>'
    )
