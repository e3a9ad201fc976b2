"""Scans of the same variants side by side: loci that hold on each scale, and those that don't."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hlmm_dask.errors import InputError
from hlmm_dask.models.inference import neg_log10_p_normal
from hlmm_dask.view.page_parts import table, ticks
from hlmm_dask.view.reading import BlockReader, Values
from hlmm_dask.view.thinned import GENOME_WIDE, AssociationTest, Thinned
from hlmm_dask.view.wording import escape, number, p_value

if TYPE_CHECKING:
    from hlmm_dask.view.report import Report

# The test of both effects together finds no locus that these don't explain.
_SHOWN = ("mean", "variance", "dispersion")
# Loci of a test in the table.
_MAX_LOCI = 50


@dataclass(frozen=True)
class ScaleLocus:
    """A locus of one test, significant on some scale.

    Attributes
    ----------
    name, contig, position
        Of its best variant on any scale.
    neg_log10_p : tuple of float
        Of that variant on each scale, NaN without a result.
    found : tuple of bool
        Whether a variant of the locus is significant on each scale.
    """

    name: str
    contig: str
    position: int
    neg_log10_p: tuple[float, ...]
    found: tuple[bool, ...]

    @property
    def alone(self) -> bool:
        """Whether it is significant on one scale only."""
        return sum(self.found) == 1


@dataclass(frozen=True)
class Scales:
    """What the scans say together.

    Attributes
    ----------
    labels : tuple of str
        Of the scans.
    thinned : tuple of Thinned
        Their results.
    loci : list of (AssociationTest, list of ScaleLocus)
        For each test, best first.
    window : int
        Base pairs within which variants are of one locus.
    """

    labels: tuple[str, ...]
    thinned: tuple[Thinned, ...]
    loci: list[tuple[AssociationTest, list[ScaleLocus]]]
    window: int

    def verdict(self, locus: ScaleLocus) -> str:
        """On which scales a locus is significant, in words."""
        names = [label for label, found in zip(self.labels, locus.found, strict=True) if found]
        if len(names) == len(self.labels):
            return "each"
        return f"{names[0]} only" if locus.alone else ", ".join(names)


def compare(reports: "Sequence[Report]") -> Scales:
    """Compare scans of the same variants.

    Raises
    ------
    InputError
        If they are of others.
    """
    first = reports[0]
    for other in reports[1:]:
        for key in ("genotypes", "start", "stop"):
            if first.facts.fingerprint.get(key) != other.facts.fingerprint.get(key):
                raise InputError(
                    f"{other.store.path}: its variants are others than those of "
                    f"{first.store.path} ({key}); compare scans of the same genotypes and range"
                )
    names = [report.facts.transform for report in reports]
    labels = ["raw" if name == "none" else name for name in names]
    if len({report.facts.attrs["phenotype"] for report in reports}) > 1:
        labels = [report.facts.title for report in reports]
    if len(set(labels)) < len(labels):
        labels = [report.store.path.stem for report in reports]
    tests = {test.name: test for report in reports for test in report.thinned.tests}
    loci = [(tests[name], _loci(reports, name)) for name in _SHOWN if name in tests]
    thinned = tuple(report.thinned for report in reports)
    return Scales(tuple(labels), thinned, loci, first.window)


def _loci(reports: "Sequence[Report]", name: str) -> list[ScaleLocus]:
    least, window = -float(np.log10(GENOME_WIDE)), reports[0].window
    best: list[tuple[float, int, str, int, str]] = []
    for report in reports:
        if name not in report.leads:
            continue
        points, column = report.thinned.points, report.thinned.test(name).column
        for row in report.leads[name].tolist():
            y = float(points[column][row])
            if y >= least:
                at = (str(points["contig"][row]), int(points["position"][row]))
                best.append((y, int(points["index"][row]), *at, str(points["id"][row])))
    readers = [BlockReader(report.store) for report in reports]
    loci: list[ScaleLocus] = []
    for _, index, contig, position, variant in sorted(best, reverse=True):
        near = (c.contig == contig and abs(c.position - position) <= window for c in loci)
        if any(near) or len(loci) >= _MAX_LOCI:
            continue
        p = [
            _p_of(report, name, reader.values(index, index + 1))
            for report, reader in zip(reports, readers, strict=True)
        ]
        found = [_highest(report.thinned, name, contig, position, window) for report in reports]
        loci.append(
            ScaleLocus(variant, contig, position, tuple(p), tuple(y >= least for y in found))
        )
    return loci


def _p_of(report: "Report", name: str, values: Values) -> float:
    thinned = report.thinned
    if name != "dispersion":
        return float(values[thinned.test(name).column][0])
    if thinned.slope is None:
        return float("nan")
    add, add_se, var, var_se = (float(values[key][0]) for key in ("add", "add_se", "var", "var_se"))
    full = report.facts.dispersion_options.slope_error
    parts = (var_se, thinned.slope * add_se, add * (thinned.slope_se or 0.0) if full else 0.0)
    return float(neg_log10_p_normal((var - thinned.slope * add) / np.linalg.norm(parts)))


def _highest(thinned: Thinned, name: str, contig: str, position: int, window: int) -> float:
    """-log10 p of the best variant near a place; 0 without."""
    if name not in {test.name for test in thinned.tests}:
        return 0.0
    points = thinned.points
    near = (points["contig"] == contig) & (np.abs(points["position"] - position) <= window)
    return float(np.nanmax(points[thinned.test(name).column][near], initial=0.0))


def scale_lines(scales: Scales) -> list[str]:
    """Say for each test how many loci are significant on one scale only."""
    lines = []
    for test, loci in scales.loci:
        alone = [locus for locus in loci if locus.alone]
        named = ", ".join(f"{locus.name} ({scales.verdict(locus)})" for locus in alone[:10])
        lines.append(
            f"{test.label}: {len(alone)} of {len(loci)} loci with p < 5e-8 on one scale only"
            + (f": {named}" if named else "")
        )
    return lines


def scales_section(scales: Scales) -> str:
    """Return the report's section: plots of effects side by side, and loci by scale."""
    plots = "".join(
        f"<figure><figcaption>{escape(label)}</figcaption>"
        f"{effects_picture(thinned, label)}</figure>"
        for label, thinned in zip(scales.labels, scales.thinned, strict=True)
    )
    parts = [
        f"<section><h2>The same variants on {len(scales.labels)} scales</h2>",
        "<p>Effect on the log variance against effect on the mean, with the fitted line and its "
        "95% confidence band. A locus on one scale only is a matter of that scale.</p>",
        f'<div class="spreads">{plots}</div>',
    ]
    for test, loci in scales.loci:
        alone = sum(locus.alone for locus in loci)
        parts.append(f"<h3>{escape(test.label)}: ")
        if not loci:
            parts.append("no locus with p &lt; 5e-8 on any scale</h3>")
            continue
        parts.append(f"{alone} of {len(loci)} loci with p &lt; 5e-8 on one scale only</h3>")
        head = ("Variant", "Chr", "Position", *(f"p, {x}" for x in scales.labels), "Significant on")
        rows = [
            (c.name, c.contig, f"{c.position:,}", *map(p_value, c.neg_log10_p), scales.verdict(c))
            for c in loci
        ]
        parts.append(table(head, rows))
    window = f"{scales.window / 1000:g} kb"
    parts.append(
        "<p class='small muted'>p of the variant that is best on any scale; a locus is significant "
        f"on a scale if a variant within {window} is.</p></section>"
    )
    return "".join(parts)


_W, _H, _LEFT, _TOP, _BOTTOM = 300.0, 240.0, 40.0, 8.0, 212.0


def effects_picture(thinned: Thinned, label: str) -> str:
    """Return effects on the variance against effects on the mean as SVG, with line and band."""
    shown = thinned.in_effects
    add, var = thinned.points["add"][shown], thinned.points["var"][shown]
    best = np.max([thinned.points[t.column][shown] for t in thinned.tests], axis=0)
    hit = best >= -np.log10(GENOME_WIDE)
    rx, ry = (1.06 * float(np.abs(v).max(initial=1e-9)) for v in (add, var))

    def x(value: float) -> float:
        return _LEFT + (value + rx) / (2 * rx) * (_W - _LEFT)

    def y(value: float) -> float:
        return _BOTTOM - (value + ry) / (2 * ry) * (_BOTTOM - _TOP)

    parts = []
    for value in ticks(-ry, ry):
        parts.append(
            f'<path class="g" d="M{_LEFT} {y(value):.1f}H{_W}"/><text x="{_LEFT - 4}" '
            f'y="{y(value) + 4:.1f}" text-anchor="end">{_minus(value)}</text>'
        )
    parts += [
        f'<text x="{x(value):.1f}" y="{_BOTTOM + 14}" text-anchor="middle">{_minus(value)}</text>'
        for value in ticks(-rx, rx)
        if abs(value) < 0.9 * rx
    ]
    for rows, colour in ((~hit, "even"), (hit, "accent")):
        # Points that fall on one another are drawn once.
        dots = dict.fromkeys(
            f"M{x(a):.1f} {y(v):.1f}h0" for a, v in zip(add[rows], var[rows], strict=True)
        )
        parts.append(
            f'<path d="{"".join(dots)}" stroke="var(--{colour})" stroke-width="2.6" '
            'stroke-linecap="round"/>'
        )
    said = f"{label}: no line"
    if (slope := thinned.slope) is not None:
        said = f"{label}: slope {number(slope)}"
        low, high = (slope + 1.96 * (thinned.slope_se or 0.0) * sign for sign in (-1, 1))
        reach = min(rx, ry / max(abs(low), abs(high), 1e-300))
        if (se := thinned.slope_se) is not None:
            said += f" (SE {number(se, 2)})"
            corners = ((-reach, low), (reach, low), (reach, high), (-reach, high))
            band = "L".join(f"{x(a):.1f} {y(a * b):.1f}" for a, b in corners)
            parts.append(f'<path d="M{band}Z" fill="var(--fit)" opacity=".2"/>')
        line = "L".join(f"{x(a):.1f} {y(a * slope):.1f}" for a in (-reach, reach))
        parts.append(f'<path d="M{line}" stroke="var(--fit)" stroke-width="2"/>')
    return (
        f'<div class="muted small">{escape(said.partition(": ")[2])}</div>'
        f'<svg viewBox="0 0 {_W:g} {_H:g}" role="img" aria-label="{escape(said)}">{"".join(parts)}'
        f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_W}"/></svg>'
    )


def _minus(value: float) -> str:
    return f"{value:g}".replace("-", "−")
