"""Command lines of what is done with chosen variants of a finished scan."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from hlmm_dask.cli import run
from hlmm_dask.cli_options import Parser, new_parser
from hlmm_dask.printable import say


def check_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-check``: permutation and bootstrap of chosen variants. Returns the exit code."""
    return run(_check_parser(), argv, _check)


def interact_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-interact``: interaction of variants with a covariate. Returns the exit code."""
    return run(_interact_parser(), argv, _interact)


def _add_chosen(parser: Parser, *, everything: bool) -> None:
    """Add the finished scan, which of its variants, and where its files are now."""
    parser.add_argument("outprefix", help="OUTPREFIX of a finished scan")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--variants", metavar="ID,ID,...|FILE",
                        help="these: IDs with commas, or a file with an ID a line")  # fmt: skip
    chosen.add_argument("--top", type=int, metavar="N", help="the best N of --test")
    if everything:
        chosen.add_argument("--all", action="store_true", help="all variants of the scan")
    parser.option("test", choices=["var", "add", "av", "classical"], default="var",
                  help="whose best: var_best_pval, add_pval, av_score_pval, var_pval")  # fmt: skip
    there = "the file of the run by default"
    parser.option("genofile", nargs="+", metavar="BED", help=f"genotypes; {there}")
    parser.option("phenofile", metavar="FILE", help=f"phenotypes; {there}")
    for name, of in (("mean", "mean"), ("var", "log variance")):
        parser.option(f"{name}-covar", metavar="FILE", help=f"covariates of the {of}; {there}")
    parser.option("random-gts", metavar="FILE", help=f"random effects; {there}")
    parser.option("overwrite", action="store_true", help="replace an existing table")


def _check_parser() -> Parser:
    parser = new_parser(
        "hlmm-check",
        "Test effects on the variance by permutation and bootstrap: OUTPREFIX.check.tsv.",
    )
    _add_chosen(parser, everything=False)
    parser.option("permutations", type=int, default=100_000, metavar="MAX",
                  help="permutations at the most; ends at 30 exceedances")  # fmt: skip
    parser.option("bootstrap", type=int, default=1000, metavar="B", help="phenotypes drawn")
    parser.option("seed", type=int, default=1, help="of the random numbers")
    return parser


def _interact_parser() -> Parser:
    parser = new_parser(
        "hlmm-interact", "Fit interactions with a covariate: OUTPREFIX.interaction.tsv."
    )
    _add_chosen(parser, everything=True)
    parser.option("covar", required=True, metavar="FILE[:COLUMN]", help="FID IID values")
    parser.option("min-carriers", type=int, default=20, metavar="N",
                  help="fewest carriers of the rarer allele above and below the covariate's "
                  "mean")  # fmt: skip
    parser.option("plots", action="store_true",
                  help="draw OUTPREFIX.interaction/*.png of the best 20")  # fmt: skip
    return parser


# Imported late: --help and mistyped options answer at once.


def _check(options: argparse.Namespace) -> None:
    from hlmm_dask.followup.check import CheckJob, run_check

    job = CheckJob(
        **_chosen(options),
        permutations=options.permutations,
        bootstrap=options.bootstrap,
        seed=options.seed,
    )
    for line in run_check(job):
        say(line)


def _interact(options: argparse.Namespace) -> None:
    from hlmm_dask.followup.interact import InteractJob, run_interact
    from hlmm_dask.view.interaction_plots import write_interaction_plots
    from hlmm_dask.view.pictures import require_matplotlib

    if options.plots:
        require_matplotlib()
    done = run_interact(
        InteractJob(**_chosen(options), covar=options.covar, min_carriers=options.min_carriers)
    )
    for note in done.notes:
        say(f"note: {note}")
    say(f"table: {done.path}")
    if options.plots:
        folder = done.path.with_suffix("")
        write_interaction_plots(done, folder)
        say(f"pictures: {folder}/")


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    from hlmm_dask.followup.inputs import Files

    files = {f.name: getattr(options, f.name, None) for f in fields(Files)}
    if options.genofile is not None and len(options.genofile) == 1:
        files["genofile"] = options.genofile[0]  # may be a pattern
    names = ("variants", "top", "test", "overwrite")
    return {name: getattr(options, name) for name in names} | {
        "outprefix": options.outprefix.removesuffix("/").removesuffix(".zarr"),
        "files": Files(**files),
    }
