"""The rates of null variants as a picture."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from calibration.simulate import DISTRIBUTION_DOC, DISTRIBUTIONS

# Tests of the variance from the worst to the best, in Okabe & Ito's colours.
_STYLE = {
    "var, classical": ("#D55E00", "o"),
    "var, sandwich": ("#E69F00", "s"),
    "var, score, normal tail": ("#56B4E9", "^"),
    "var, headline": ("#000000", "D"),
}
_LOWEST = 0.05


def draw_rates(table: pd.DataFrame, path: Path) -> None:
    """Rates at 1e-4 over 1e-4 against the minor allele frequency, a panel for each phenotype."""
    sizes = sorted(table["samples"].unique())
    figure = Figure(figsize=(3.0 * len(DISTRIBUTIONS), 3.0 * len(sizes)), layout="constrained")
    axes = figure.subplots(len(sizes), len(DISTRIBUTIONS), sharex=True, sharey=True, squeeze=False)
    for row, n in zip(axes, sizes, strict=True):
        for ax, name in zip(row, DISTRIBUTIONS, strict=True):
            part = table[(table["samples"] == n) & (table["phenotype"] == name)]
            for test, (colour, marker) in _STYLE.items():
                own = part[part["test"] == test].sort_values("maf")
                # A rate of zero stands at the lower edge.
                rate = np.maximum(own["0.0001"].to_numpy(), _LOWEST)
                low = np.maximum(own["0.0001_low"].to_numpy(), _LOWEST)
                high = np.maximum(own["0.0001_high"].to_numpy(), rate)
                errors = np.stack([rate - low, high - rate])
                ax.errorbar(
                    own["maf"], rate, errors, color=colour, marker=marker, ms=4, lw=1, label=test
                )
            ax.axhline(1.0, color="0.5", lw=0.8, ls="--")
            ax.set(xscale="log", yscale="log", ylim=(_LOWEST, 5000.0))
            ax.set_title(f"{DISTRIBUTION_DOC[name]}, n = {n:,}", fontsize=9)
            ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("minor allele frequency")
    for ax in axes[:, 0]:
        ax.set_ylabel("false calls at p < 1e-4, over expected")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
