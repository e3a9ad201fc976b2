"""The report's sections on the run itself: samples, null model, command."""

from typing import Any

from hlmm_dask.schema import STATUS_DOC
from hlmm_dask.view.facts import Facts
from hlmm_dask.view.page_parts import table
from hlmm_dask.view.terminal import duration
from hlmm_dask.view.wording import escape, flat, number


def accounting_section(facts: Facts) -> str:
    """Return samples, variants by status, and the null model."""
    docs = {status.label: doc for status, doc in STATUS_DOC.items()}
    total = max(sum(facts.counts.values()), 1)
    statuses = [
        (label.replace("_", " "), f"{n:,}", f"{100 * n / total:.2f}%", docs.get(label, ""))
        for label, n in sorted(facts.counts.items(), key=lambda item: -item[1])
    ]
    null = facts.phenotype
    absent = "<p class='muted'>Not known: the record of the run (.run.json) does not have it.</p>"
    samples = model = absent
    if null:
        samples = table(
            ("Step", "Samples left"), [(s["step"], f"{s['n']:,}") for s in null["accounting"]]
        )
        rows = [
            (e["name"], e["part"], number(_float(e["effect"])), number(_float(e["se"])))
            for e in null["effects"]
        ]
        model = table(("Covariate", "Effect on", "Effect", "SE"), rows)
        said = [f"log-likelihood {null['loglik']:,.2f}".replace(" -", " −")]
        if null.get("h2") is not None:
            random = f"variance of {null['n_random']:,} random effects"
            said.append(
                f"{random if null['n_random'] else 'heritability'} {number(_float(null['h2']))} "
                f"(SE {number(_float(null['h2_se']))})"
            )
        model += f"<p class='small muted'>{escape('; '.join(said))}</p>"
    variants = table(("Status", "Variants", "Share", "Meaning"), statuses, kind="plain")
    return (
        f'<section><div class="halves"><div><h2>Samples</h2>{samples}<h2>Variants by status</h2>'
        f"{variants}</div><div><h2>Null model</h2>{model}</div></div></section>"
    )


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def run_section(facts: Facts) -> str:
    """Return command, versions, machine, options."""
    run = facts.run
    rows = [
        ("Package", f"hlmm_dask {facts.attrs.get('hlmm_dask', '')}"),
        ("Effects", f"per copy of allele {str(facts.attrs['effect_allele'])[1:]}"),
        ("Blocks", f"{facts.n_done:,} of {facts.n_blocks:,}"),
    ]
    rows += [
        (name.capitalize(), str(run[name]))
        for name in ("started", "ended", "outcome")
        if run.get(name)
    ]
    for name in ("versions", "machine"):
        if run.get(name):
            pairs = ", ".join(f"{key} {flat(value)}" for key, value in run[name].items())
            rows.append((name.capitalize(), pairs))
    if run.get("seconds"):
        phases = ", ".join(f"{key} {duration(value)}" for key, value in run["seconds"].items())
        rows.append(("Time", phases))
    if run.get("notes"):
        rows.append(("Notes", "; ".join(str(note["text"]) for note in run["notes"])))
    command = f"<pre>{escape(' '.join(run['command']))}</pre>" if run.get("command") else ""
    options = ""
    if facts.options:
        given = [(key, flat(value)) for key, value in facts.options.items()]
        options = (
            f"<details><summary>All options</summary>{table((), given, kind='plain')}</details>"
        )
    return f"<section><h2>The run</h2>{command}{table((), rows, kind='plain')}{options}</section>"
