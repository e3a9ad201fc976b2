"""A thinned scan as JSON for the browser: numbers packed as base64."""

import base64
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from hlmm_dask.printable import printable
from hlmm_dask.view.thinned import GENOME_WIDE, AssociationTest, Thinned, expected_band
from hlmm_dask.view.wording import short_id

IN_EFFECTS = 128


def page_json(thinned: Thinned, unit: str) -> str:
    """Return all that the page's script draws, fit to stand in a script element.

    Parameters
    ----------
    thinned : Thinned
    unit : str
        Of effects on the mean, per allele.
    """
    axis, points = thinned.axis, thinned.points
    flags = np.zeros(len(thinned.in_effects), dtype=np.uint8)
    for t, test in enumerate(thinned.tests):
        flags[thinned.shown[test.name]] |= 1 << t
    flags[thinned.in_effects] |= IN_EFFECTS
    columns: dict[str, npt.NDArray[Any]] = {"flags": flags}
    if points:
        position = points["position"]
        small = int(position.max(initial=0)) < 2**32
        columns |= {
            "contig": axis.code(points["contig"]).astype(np.uint16),
            "position": position.astype(np.uint32 if small else np.float64),
            "maf": points["minor_allele_frequency"].astype(np.float32),
            "add": points["add"].astype(np.float32),
            "var": points.get("var", np.full(len(position), np.nan)).astype(np.float32),
        } | {test.name: points[test.column].astype(np.float32) for test in thinned.tests}
    content = {
        "points": {name: _packed(column) for name, column in columns.items()},
        "ids": [short_id(name) for name in points["id"]] if points else [],
        "contigs": [
            {"name": printable(c.name), "first": c.first, "offset": offset, "middle": middle}
            for c, offset, middle in zip(
                thinned.contigs, axis.offsets.tolist(), (0.5 * (axis.starts + axis.stops)).tolist(),
                strict=True,
            )
        ],
        "length": float(axis.stops[-1]) if axis.names else 1.0,
        "tests": [_test(thinned, test) for test in thinned.tests],
        "genome_wide": -float(np.log10(GENOME_WIDE)),
        "slope": thinned.slope,
        "slope_se": thinned.slope_se,
        "unit": unit,
    }  # fmt: skip
    # "</script>" in an ID must not end the element.
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _test(thinned: Thinned, test: AssociationTest) -> dict[str, Any]:
    classes = [("all", "text", None)] + [
        (f"MAF {label}", f"c{i}", i) for i, label in enumerate(thinned.classes.labels)
    ]
    quantiles = []
    for label, colour, i in classes:
        q = thinned.quantiles(test.name, i, n_points=400)
        if q.n:
            quantiles.append(
                {"label": label, "colour": colour, "expected": _short(q.expected),
                 "observed": _short(q.observed)}
            )  # fmt: skip
    band = expected_band(thinned.n_tested(test.name))
    lines = sorted(thinned.thresholds(test.name).items(), key=lambda line: line[1])
    return {
        "name": test.name,
        "short": test.short,
        "lines": lines,
        "qq": quantiles,
        "band": dict(zip(("expected", "low", "high"), map(_short, band), strict=True)),
    }


def _short(values: npt.NDArray[np.float64]) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _packed(column: npt.NDArray[Any]) -> tuple[str, str]:
    """Kind and bytes; little-endian, as all browsers' machines are."""
    little = column.astype(column.dtype.newbyteorder("<"))
    return f"{column.dtype.kind}{column.dtype.itemsize}", base64.b64encode(
        little.tobytes()
    ).decode()
