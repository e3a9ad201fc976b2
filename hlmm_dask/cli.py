"""Command lines: arguments to calls, errors to one line and an exit code."""

import argparse
import glob
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hlmm_dask.cli_options import (
    CLUSTER_OPTIONS,
    DISPERSION_OPTIONS,
    EXIT_FAILED,
    EXIT_INPUT,
    EXIT_OK,
    LMM_OPTIONS,
    Parser,
    chr_parser,
    dispersion_parser,
    fit_parser,
    joined,
    kinship_parser,
    loci_parser,
    munge_parser,
    report_parser,
    scan_parser,
)
from hlmm_dask.ending import EXIT_INTERRUPTED, Ending, lasting_stderr
from hlmm_dask.errors import ClusterLostError, InputError, ScanError, StoreError
from hlmm_dask.printable import say

if TYPE_CHECKING:
    from hlmm_dask.models.dispersion import DispersionOptions
    from hlmm_dask.scanning.job import ScanJob


def scan_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-scan``: fit every variant of a genome. Returns the exit code."""
    return run(scan_parser(), argv, _scan)


def hlmm_chr_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-chr``: hlmm_chr.py's command line on the same engine. Returns the exit code."""
    return run(chr_parser(), argv, _chr)


def fit_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-fit``: fit_hlmm_model.py's command line, one model without variants."""
    return run(fit_parser(), argv, _fit)


def dispersion_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-dispersion``: add dispersion effects to an existing table."""
    return run(dispersion_parser(), argv, _dispersion)


def loci_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-loci``: refit the lead variants of a finished scan. Returns the exit code."""
    return run(loci_parser(), argv, _loci)


def kinship_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-kinship``: the relationship matrix of genotypes. Returns the exit code."""
    return run(kinship_parser(), argv, _kinship)


def report_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-report``: write the report of a scan, finished or not. Returns the exit code."""
    return run(report_parser(), argv, _report)


def munge_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-munge``: write a finished scan for other programs. Returns the exit code."""
    return run(munge_parser(), argv, _munge)


def run(
    parser: Parser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace], None],
) -> int:
    """Parse, do, and turn errors into a line and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Options may stand between the positional arguments, also after one of several GENOFILEs.
    options = parser.parse_intermixed_args(joined(arguments))
    options.command = [*_program(parser, argv is None), *arguments]
    options.begun = False
    with ExitStack() as stack:
        ending = Ending()
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _show_warning
        if argv is None:
            stack.enter_context(ending)
            stack.enter_context(lasting_stderr())
        try:
            parser.check(options)
            command(options)
        except KeyboardInterrupt:
            return _interrupted(parser.prog, options)
        except Exception as error:
            # A library may turn an interrupt into an error of its own.
            if ending.asked:
                return _interrupted(parser.prog, options)
            return _failed(parser.prog, options, error)
    return EXIT_OK


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the place in the code that Python adds."""
    say(f"warning: {message}")


def _interrupted(program: str, options: argparse.Namespace) -> int:
    # Below what the terminal has echoed.
    print(file=sys.stderr)
    say(f"{program}: interrupted")
    if _resumable(options):
        _show_resume(options)
    return EXIT_INTERRUPTED


def _failed(program: str, options: argparse.Namespace, error: Exception) -> int:
    """Say in a line what went wrong and return the exit code; raise what is a mistake of ours."""
    match error:
        case InputError() | StoreError():
            return _complain(program, error, EXIT_INPUT)
        case ClusterLostError() if _resumable(options):
            code = _complain(program, error, EXIT_FAILED)
        case ScanError():
            return _complain(program, error, EXIT_FAILED)
        case OSError() if not options.begun:
            # Before the work begins it is about input; after that about disks.
            return _complain(program, error, EXIT_INPUT)
        case OSError() if not hasattr(options, "resume"):
            return _complain(program, error, EXIT_FAILED)
        case OSError():
            code = _complain(program, error, EXIT_INTERRUPTED)
        case _:
            raise error
    _show_resume(options)
    return code


def _show_resume(options: argparse.Namespace) -> None:
    again = [word for word in options.command if word not in ("--overwrite", "--resume")]
    line = shlex.join([*again, "--resume"])
    say("finished blocks are kept; go on with:")
    say(f"  {line}", whole=True)


def _complain(program: str, error: Exception, code: int) -> int:
    say(f"{program}: error: {error}")
    return code


def _resumable(options: argparse.Namespace) -> bool:
    # With several phenotypes each has its store.
    return hasattr(options, "resume") and any(
        glob.glob(f"{glob.escape(options.outprefix)}{suffix}/.run")
        for suffix in (".zarr", ".*.zarr")
    )


def _program(parser: argparse.ArgumentParser, started: bool) -> list[str]:
    """How this program was started, such that a shell in the same folder starts it again."""
    name = Path(sys.argv[0]).name
    if not started or name == parser.prog:
        return [parser.prog]
    if name == "__main__.py":
        return [sys.executable, "-m", "hlmm_dask"]
    return [sys.executable, sys.argv[0]]


# -- commands ---------------------------------------------------------------------------------
# Imported late: --help and mistyped options answer at once.


def _scan(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.job import ScanJob

    formats = _formats(options)
    if options.plots:
        from hlmm_dask.view.pictures import require_matplotlib

        require_matplotlib()
    start, stop = options.range or (0, None)
    command = _plan if options.dry_run else _watch
    command(
        ScanJob(
            genofile=options.genofile if len(options.genofile) > 1 else options.genofile[0],
            phenofile=options.phenofile,
            outprefix=options.outprefix,
            start=start,
            stop=stop,
            count_a2=options.count_a2,
            transform=options.transform,
            h2=options.h2,
            method=options.method,
            engine=options.engine,
            loco=options.loco,
            **{name: getattr(options, name) for name in LMM_OPTIONS},
            exclude_window=options.exclude_window,
            spa_threshold=options.spa_threshold,
            tests=tuple(name.strip() for name in options.tests.split(",") if name.strip()),
            **{name: getattr(options, name) for name in CLUSTER_OPTIONS},
            jobqueue_option=tuple(options.jobqueue_option),
            block_size=options.block_size,
            dispersion=options.dispersion,
            **{name: getattr(options, name) for name in DISPERSION_OPTIONS},
            parquet=options.parquet,
            tabix=options.tabix,
            formats=formats,
            resume=options.resume,
            overwrite=options.overwrite,
            **_common(options),
        ),
        options,
    )


def _chr(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.job import ScanJob

    say(
        "effects are per copy of allele 2 (.bim column 6), as hlmm counted; "
        "hlmm-scan counts allele 1"
    )
    _watch(
        ScanJob(
            genofile=options.genofile,
            phenofile=options.phenofile,
            outprefix=options.outprefix,
            start=0 if options.whole_chr else options.start,
            stop=None if options.whole_chr else options.end,
            count_a2=True,
            append=options.append,
            clip_stop=True,
            overwrite=True,
            keep_store=False,
            **_common(options),
        ),
        options,
    )


def _watch(job: "ScanJob", options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.dispersion import SLOPE, SLOPE_SE
    from hlmm_dask.scanning.events import Event, Observer, Planned
    from hlmm_dask.scanning.fork_server import start_fork_server
    from hlmm_dask.scanning.job import run_job
    from hlmm_dask.scanning.log import RunLog
    from hlmm_dask.scanning.logs import off_terminal
    from hlmm_dask.transforms import chosen_transforms
    from hlmm_dask.view.closing import make_reports, show_loci
    from hlmm_dask.view.terminal import TerminalProgress, print_summary

    if job.cluster.is_local:
        # It imports while the input is read.
        job.cluster.check()
        start_fork_server()

    def begin(event: Event) -> None:
        options.begun = options.begun or isinstance(event, Planned)

    with ExitStack() as stack:
        stack.enter_context(off_terminal())
        observers: list[Observer] = [begin, stack.enter_context(TerminalProgress())]
        if job.keep_store:
            # hlmm writes no log; its command line is kept as it is.
            log = RunLog(
                job.outprefix, command=options.command, options=asdict(job), replace=job.overwrite
            )
            observers.append(stack.enter_context(log))
        summaries = run_job(job, tuple(observers))
    n_scales = len(chosen_transforms(job.transform))
    outprefixes: list[str] = []
    for title, summary in summaries.items():
        print_summary(summary, title=title)
        if job.keep_store:
            outprefixes.append(title.removesuffix(".models.gz"))
            try:
                if not (options.report or options.plots):
                    show_loci(
                        outprefixes[-1],
                        slope=summary.get(SLOPE),
                        slope_se=summary.get(SLOPE_SE) if job.dispersion_slope_error else None,
                    )
                    outprefixes = []
                elif len(outprefixes) == n_scales:
                    make_reports(outprefixes, page=options.report, plots=options.plots)
                    outprefixes = []
            except (OSError, ValueError, RuntimeError) as error:
                again = ["hlmm-report", *outprefixes, *(["--plots"] if options.plots else [])]
                raise ScanError(
                    f"{error}; the scan is complete and {title} is written, only its report is "
                    f"missing: {shlex.join(again)}"
                ) from error


def _report(options: argparse.Namespace) -> None:
    from hlmm_dask.view.closing import make_reports, scans_of

    given = [name.removesuffix("/").removesuffix(".zarr") for name in options.outprefix]
    groups = [given] if len(given) > 1 else scans_of(given[0])
    for outprefixes in groups:
        make_reports(outprefixes, plots=options.plots, kilobases=options.window)


def _munge(options: argparse.Namespace) -> None:
    from hlmm_dask.formats.effects import EFFECTS
    from hlmm_dask.formats.munge import choose
    from hlmm_dask.scanning.munge import MungeJob

    effects = choose(options.effect, tuple(EFFECTS), "--effect") if options.effect else ()
    job = MungeJob(
        outprefix=options.outprefix.removesuffix("/").removesuffix(".zarr"),
        formats=_formats(options),
        effects=effects,
        assembly=options.assembly,
        overwrite=options.overwrite,
        dispersion=_dispersion_options(options),
    ).check()
    options.begun = True
    for line in job.write():
        say(line)


def _formats(options: argparse.Namespace) -> tuple[str, ...]:
    if options.format is None:
        return ()
    from hlmm_dask.formats.munge import FORMATS, choose

    return choose(options.format, FORMATS, "--format")


def _plan(job: "ScanJob", options: argparse.Namespace) -> None:
    from rich.console import Console

    from hlmm_dask.scanning.dry_run import dry_run
    from hlmm_dask.view.plan import plan_lines
    from hlmm_dask.view.terminal import TerminalProgress, print_rows

    with TerminalProgress() as progress:
        lines = plan_lines(dry_run(job, (progress,)))
    print_rows("Plan (nothing was written)", list(lines.items()), console=Console())


def _common(options: argparse.Namespace) -> dict[str, Any]:
    names = (
        "mean_covar", "var_covar", "random_gts", "random_gts_txt", "h2_init", "phen_index",
        "no_minus9", "no_h2_estimate", "mean_covar_cols", "var_covar_cols", "fit_covariates",
        "min_maf", "max_missing",
        "no_covariate_estimates", "workers",
    )  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    return given | {"missing_char": tuple(options.missing_char)}


def _dispersion(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.dispersion import add_dispersion

    how = _dispersion_options(options)
    lines = add_dispersion(options.table, options.out, how, overwrite=options.overwrite)
    for line in lines:
        say(line)


def _dispersion_options(options: argparse.Namespace) -> "DispersionOptions":
    from hlmm_dask.models.dispersion import DispersionOptions

    return DispersionOptions(*(getattr(options, name) for name in DISPERSION_OPTIONS))


def _loci(options: argparse.Namespace) -> None:
    from hlmm_dask.followup.loci import LociOptions, loci, verdict_lines

    names = [name for name in LociOptions.__dataclass_fields__ if hasattr(options, name)]
    given = {name: getattr(options, name) for name in names}
    # What is not given is as in the run.
    given["missing_char"] = tuple(options.missing_char) or None
    given["no_minus9"] = options.no_minus9 or None
    if options.genofile is not None and len(options.genofile) == 1:
        given["genofile"] = options.genofile[0]  # may be a pattern
    for line in verdict_lines(loci(options.outprefix, **given)):
        say(line, stream=sys.stdout)


def _kinship(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.kinship_job import KinshipJob, run_kinship

    cluster = None
    default = kinship_parser().get_default
    names = ("workers", "jobqueue_option", *CLUSTER_OPTIONS)
    if any(getattr(options, name) != default(name) for name in names):
        # Imported where it is needed: one process starts in half the time.
        from hlmm_dask.scanning.cluster import ClusterOptions

        cluster = ClusterOptions(
            workers=options.workers,
            jobqueue_option=tuple(options.jobqueue_option),
            shared_directory=str(Path(options.outprefix).absolute().parent),
            **{name: getattr(options, name) for name in CLUSTER_OPTIONS},
        )
    given = vars(options) | {"file_format": options.format, "cluster": cluster}
    job = KinshipJob(**{name: given[name] for name in KinshipJob.__dataclass_fields__})
    with ExitStack() as stack:
        if cluster is not None:
            from hlmm_dask.scanning.logs import off_terminal

            stack.enter_context(off_terminal())
        for line in run_kinship(job):
            say(line)


def _fit(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.fit_model import fit_model

    fit_model(
        phenofile=options.phenofile,
        outprefix=options.outprefix,
        mean_covar=options.mean_covar,
        var_covar=options.var_covar,
        random_gts=options.random_gts,
        random_gts_txt=options.random_gts_txt,
        h2_init=options.h2_init,
        phen_index=options.phen_index,
        missing_char=tuple(options.missing_char),
        no_minus9=options.no_minus9,
        mean_covar_cols=options.mean_covar_cols,
        var_covar_cols=options.var_covar_cols,
        no_h2_estimate=options.no_h2_estimate,
    )


if __name__ == "__main__":
    sys.exit(scan_main())
