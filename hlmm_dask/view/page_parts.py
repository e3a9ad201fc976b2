"""Parts of the report's page: tables, facts, small pictures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from hlmm_dask.view.spread import GenotypeClass
from hlmm_dask.view.wording import escape, number

# Rows that a table shows without scrolling, see .scroll in report.css.
_ROWS_IN_SIGHT = 11


def definitions(facts: Mapping[str, str]) -> str:
    """Return facts as a row of figures."""
    items = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items()
    )
    return f'<dl class="facts">{items}</dl>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    kind: Literal["", "plain", "verdicts"] = "",
) -> str:
    """Return a table of words; the first column is aligned left."""
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return _scrolling(head, [f"<tr>{line}</tr>" for line in lines], kind)


def _scrolling(head: Sequence[str], rows: Sequence[str], kind: str) -> str:
    """Return a table whose rows scroll in a box of their own, under a head that stays."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    header = f"<thead><tr>{top}</tr></thead>" if head else ""
    more = ""
    if len(rows) > _ROWS_IN_SIGHT:
        more = f'<p class="small muted more">{len(rows):,} rows; the table scrolls.</p>'
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}">{header}'
        f"<tbody>{''.join(rows)}</tbody></table></div>{more}"
    )


def lead_table(rows: Iterable[tuple[int, bool, Sequence[str]]], head: Sequence[str]) -> str:
    """Return a table of leads, each tied to its point in the plots: point, significant, cells."""
    lines = []
    for point, significant, cells in rows:
        kind = "" if significant else ' class="below"'
        first = f'<td title="{escape(cells[0])}">{escape(cells[0])}</td>'
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
        lines.append(
            f'<tr{kind} tabindex="0" aria-selected="false" data-point="{point}">{first}{rest}</tr>'
        )
    return _scrolling(head, lines, "leads")


def plot(kind: str, label: str, test: int = 0) -> str:
    """Return the place where the page's script draws."""
    return (
        f'<div class="plot {kind}" data-kind="{kind}" data-test="{test}" '
        f'data-label="{escape(label)}"></div>'
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return a legend: colour variable, label."""
    items = "".join(
        f'<span><i style="background:var(--{colour})"></i>{escape(label)}</span>'
        for colour, label in entries
    )
    return f'<p class="legend">{items}</p>'


def ticks(low: float, high: float) -> list[float]:
    """Round values for an axis, at most six steps."""
    step = float(10.0 ** np.floor(np.log10((high - low) / 3.0)))
    step *= next(k for k in (1, 2, 5, 10) if (high - low) / (k * step) <= 6.0)
    return [k * step for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


_W, _H, _LEFT, _TOP, _BOTTOM = 300.0, 240.0, 34.0, 8.0, 196.0


def spread_picture(classes: Sequence[GenotypeClass], label: str) -> str:
    """Return density, quartiles and mean ± SD of the phenotype by genotype, as SVG."""
    low = min(float(np.quantile(each.values, 0.002)) for each in classes)
    high = max(float(np.quantile(each.values, 0.998)) for each in classes)
    pad = 0.05 * (high - low) or 1.0
    low, high = low - pad, high + pad
    grid = np.linspace(low, high, 80)

    def y(value: float) -> float:
        return _BOTTOM - (min(max(value, low), high) - low) / (high - low) * (_BOTTOM - _TOP)

    parts = []
    for value in ticks(low, high):
        at = y(value)
        parts.append(
            f'<path class="g" d="M{_LEFT} {at:.1f}H{_W}"/><text x="{_LEFT - 5}" y="{at + 4:.1f}" '
            f'text-anchor="end">{f"{value:g}".replace("-", "−")}</text>'
        )
    for each in classes:
        x = _LEFT + (_W - _LEFT) * (each.copies + 0.5) / 3.0
        density = each.density(grid)
        half = 36.0 * density / max(float(density.max()), 1e-300)
        right = [f"{x + h:.1f} {y(v):.1f}" for h, v in zip(half, grid, strict=True)]
        left = [f"{x - h:.1f} {y(v):.1f}" for h, v in zip(half[::-1], grid[::-1], strict=True)]
        _, first, median, third, _ = each.quantiles
        colour = ("c2", "c3", "c0")[each.copies]
        parts.append(
            f'<path d="M{"L".join([*right, *left])}Z" fill="var(--{colour})" opacity=".4"/>'
            f'<rect class="bar" x="{x - 3:.1f}" y="{y(third):.1f}" width="6" '
            f'height="{max(y(first) - y(third), 0.5):.1f}"/>'
            f'<path class="median" d="M{x - 9:.1f} {y(median):.1f}h18"/>'
        )
        if each.n > 1:
            parts.append(
                f'<path class="sd" d="M{x:.1f} {y(each.mean - each.sd):.1f}'
                f'V{y(each.mean + each.sd):.1f}"/>'
            )
        parts.append(f'<circle class="mean" cx="{x:.1f}" cy="{y(each.mean):.1f}" r="3.5"/>')
        for line, text in enumerate((str(each.copies), f"n {each.n:,}", f"SD {number(each.sd)}")):
            parts.append(
                f'<text x="{x:.1f}" y="{_BOTTOM + 14 + 13 * line:.0f}" text-anchor="middle">'
                f"{text}</text>"
            )
    return (
        f'<svg viewBox="0 0 {_W:g} {_H:g}" role="img" aria-label="{escape(label)}">'
        f'{"".join(parts)}<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_W}"/></svg>'
    )
