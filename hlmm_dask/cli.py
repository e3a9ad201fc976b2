"""Command lines: arguments to calls, errors to one line and an exit code."""

import argparse
import glob
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hlmm_dask.ending import end_as_interrupted, keep_ending, lasting
from hlmm_dask.errors import ClusterLostError, InputError, ScanError, StoreError
from hlmm_dask.scanning.prestart import (
    before_imports,
    choose_blas_kernels,
    imports_done,
    start_fork_server,
)

if TYPE_CHECKING:
    from hlmm_dask.models.dispersion import DispersionOptions
    from hlmm_dask.scanning.job import ScanJob

EXIT_OK, EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 75


def scan_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-scan``: fit every variant of a genome. Returns the exit code."""
    if argv is None:
        before_imports()
    return _run(_scan_parser(), argv, _scan)


def hlmm_chr_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-chr``: hlmm_chr.py's command line on the same engine. Returns the exit code."""
    if argv is None:
        before_imports()
    return _run(_chr_parser(), argv, _chr)


def fit_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-fit``: fit_hlmm_model.py's command line, one model without variants."""
    return _run(_fit_parser(), argv, _fit)


def dispersion_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-dispersion``: add dispersion effects to an existing table."""
    return _run(_dispersion_parser(), argv, _dispersion)


def loci_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-loci``: refit the lead variants of a finished scan. Returns the exit code."""
    if argv is None:
        choose_blas_kernels()
    return _run(_loci_parser(), argv, _loci)


def kinship_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-kinship``: the relationship matrix of genotypes. Returns the exit code."""
    if argv is None:
        choose_blas_kernels()
    return _run(_kinship_parser(), argv, _kinship)


def report_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-report``: write the report of a scan, finished or not. Returns the exit code."""
    return _run(_report_parser(), argv, _report)


def munge_main(argv: Sequence[str] | None = None) -> int:
    """``hlmm-munge``: write a finished scan for other programs. Returns the exit code."""
    return _run(_munge_parser(), argv, _munge)


def _run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace], None],
) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        end_as_interrupted()
        sys.stderr = lasting(sys.stderr)
    # Options may stand between the positional arguments, also after one of several GENOFILEs.
    options = parser.parse_intermixed_args(arguments)
    options.is_process = argv is None
    options.command = [*_program(parser, argv is None), *arguments]
    options.begun = False
    try:
        command(options)
    except (InputError, StoreError) as error:
        return _complain(parser.prog, error, EXIT_INPUT)
    except ScanError as error:
        code = _complain(parser.prog, error, EXIT_FAILED)
        if not (isinstance(error, ClusterLostError) and _resumable(options)):
            return code
    except OSError as error:
        # Before the work begins it is about input; after that about disks, which can be mended.
        code = EXIT_FAILED if options.begun else EXIT_INPUT
        if options.begun and hasattr(options, "resume"):
            code = EXIT_INTERRUPTED
        _complain(parser.prog, error, code)
        if code != EXIT_INTERRUPTED:
            return code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        if argv is None:
            keep_ending()
        print(f"\n{parser.prog}: interrupted", file=sys.stderr)
        if not _resumable(options):
            return EXIT_INTERRUPTED
    else:
        return EXIT_OK
    again = [word for word in options.command if word not in ("--overwrite", "--resume")]
    line = shlex.join([*again, "--resume"])
    print(f"finished blocks are kept; go on with:\n  {line}", file=sys.stderr)
    return code


def _complain(program: str, error: Exception, code: int) -> int:
    print(f"{program}: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
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


# -- parsers ----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Options with hyphens or underscores; errors in one line, exit code 2."""

    def option(self, name: str, **settings: Any) -> None:
        """Add ``--name`` in both spellings."""
        names = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"])
        self.add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser(program: str, description: str) -> _Parser:
    return _Parser(
        prog=program,
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def _add_model_options(parser: _Parser) -> None:
    parser.option("mean-covar", metavar="FILE", help="covariates of the mean: FID IID values")
    parser.option(
        "var-covar", metavar="FILE", help="covariates of the log variance: FID IID values"
    )
    parser.option("random-gts", metavar="FILE", help=".bed with the variants of the random effects")
    parser.option(
        "random-gts-txt",
        action="store_true",
        help="--random_gts is a text file: FID IID x1 x2 ...",
    )
    parser.option("h2-init", type=float, default=0.05,
                  help="start of h2, as a share of the phenotype's variance")  # fmt: skip
    parser.option("phen-index", default="1", metavar="N|NAME",
                  help="column of the phenotypes: number, or name; 1,3,5-8; all")  # fmt: skip
    parser.option("missing-char", default="NA", help="missing value in the tables")
    parser.option("no-h2-estimate", action="store_true", help="don't write the h2 estimate")


def _add_scan_options(parser: _Parser) -> None:
    _add_model_options(parser)
    for name in ("mean", "var"):
        parser.option(f"{name}-covar-cols", default="all", metavar="COLUMNS",
                      help="columns of that file: names or numbers, as in age,3-5")  # fmt: skip
    parser.option(
        "fit-covariates",
        action="store_true",
        help="keep the covariates in every model; else project out (mean) and rescale (variance)",
    )
    parser.option("min-maf", type=float, default=0.05, help="fit variants with MAF above this")
    parser.option("max-missing", type=float, default=5.0,
                  help="fit variants with a percentage of missing calls below this")  # fmt: skip
    parser.option("no-covariate-estimates", action="store_true",
                  help="don't write the covariates' effects")  # fmt: skip


def _add_run_options(parser: _Parser) -> None:
    group = parser.add_argument_group("cluster and output")

    def option(name: str, **settings: Any) -> None:
        names = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"])
        group.add_argument(*names, **settings)

    option("scheduler", metavar="ADDRESS", help="running Dask scheduler, tcp://host:port")
    option("scheduler-file", metavar="FILE", help="file with a running scheduler's address")
    option("workers", type=int, help="worker processes; all cores by default")
    option("threads-per-worker", type=int, default=1, help="threads of each")
    option("memory-limit", default="auto", help="memory of each worker, such as 4GiB")
    _add_cluster_options(option)
    option("block-size", type=int, help="variants a block; chosen from the data by default")
    option("h2", choices=["refit", "null"], default="refit",
           help="estimate h2 for every variant, or keep the null model's")  # fmt: skip
    option("dispersion", action="store_true", help="estimate dispersion effects")
    _add_dispersion_options(option)
    option("parquet", action="store_true", help="write OUTPREFIX.parquet too")
    option("tabix", action="store_true", help="index the table for tabix: OUTPREFIX.models.gz.tbi")
    option("format", metavar="FORMATS", help=_FORMATS)
    option("report", action="store_true", help="write OUTPREFIX.report.html")
    option("plots", action="store_true", help="draw OUTPREFIX.plots/*.png and *.svg")
    option("resume", action="store_true", help="go on with OUTPREFIX.zarr")
    option("overwrite", action="store_true", help="replace existing output")
    option("dry-run", action="store_true",
           help="check everything and print the plan; nothing is written")  # fmt: skip
    option("method", choices=["auto", "exact", "linear"], default="auto",
           help="random effects: exact for all, or linear in their number where good")  # fmt: skip
    option("engine", choices=["numba", "numpy"], default="numba",
           help="compiled sums, or plain array operations (slow, same numbers)")  # fmt: skip


def _add_dispersion_options(option: Callable[..., None]) -> None:
    option("dispersion-blocks", type=_blocks, default="auto", metavar="chromosomes|N",
           help="what the jackknife of the slope leaves out: chromosomes (auto: if there are 5), "
           "or N windows (20)")  # fmt: skip
    option("dispersion-exclude", type=float, metavar="P",
           help="leave variants with an additive p-value below P out of the slope")  # fmt: skip
    option("dispersion-slope-error", action="store_true",
           help="add the uncertainty of the slope to dispersion_se")  # fmt: skip


def _blocks(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


_DISPERSION = ("dispersion_blocks", "dispersion_exclude", "dispersion_slope_error")
_LMM = ("model", "kinship", "grm_from", "grm_kind", "grm_min_maf", "lmm_test")
_FORMATS = "files for other programs: one or more of ssf,ldsc,regenie,gwas-vcf"
_CLUSTER = (
    "scheduler", "scheduler_file", "threads_per_worker", "memory_limit", "timeout",
    "no_workers_timeout", "tls_ca", "tls_cert", "tls_key", "insecure", "jobqueue", "queue",
    "account", "walltime", "local_directory", "cores",
)  # fmt: skip


def _add_cluster_options(option: Callable[..., None]) -> None:
    option("connect-timeout", dest="timeout", type=float, metavar="SECONDS",
           help="wait for a scheduler and a first worker: 60, a day with --jobqueue")  # fmt: skip
    option("no-workers-timeout", type=float, metavar="SECONDS",
           help="end when no worker is left for so long: 300, a day with --jobqueue")  # fmt: skip
    option(
        "tls-ca", metavar="FILE", help="authority that signed the tls:// scheduler's certificate"
    )
    option("tls-cert", metavar="FILE", help="certificate to show it")
    option("tls-key", metavar="FILE", help="key of that certificate")
    option("insecure", action="store_true",
           help="allow unencrypted connections to other machines")  # fmt: skip
    option("jobqueue", choices=["slurm", "lsf", "sge", "pbs"],
           help="start --workers worker processes as jobs of a batch system")  # fmt: skip
    option("queue", metavar="NAME", help="queue or partition of the jobs")
    option("account", metavar="NAME", help="account or project that they are charged to")
    option("walltime", metavar="HH:MM:SS",
           help="of a job, replaced when it ends; by default Dask's: 30 minutes")  # fmt: skip
    option("cores", type=int, help="cores of a job; by default those of one worker")
    option("local-directory", metavar="DIR", help="the jobs' scratch folder on their node")
    option("jobqueue-option", metavar="KEY=VALUE", action="append", default=[],
           help="further keyword of dask-jobqueue's cluster, as interface=ib0")  # fmt: skip


def _scan_parser() -> _Parser:
    parser = _parser(
        "hlmm-scan", "Scan a genome for variants that change mean and spread of a trait."
    )
    parser.add_argument(
        "genofile", nargs="+",
        help=".bed with .bim and .fam beside it, several, or a pattern with @ for the chromosome",
    )  # fmt: skip
    parser.add_argument("phenofile", help="FID IID values")
    parser.add_argument("outprefix", help="start of the output files' names")
    parser.option("range", nargs=2, type=int, metavar=("START", "END"),
                  help="only these variants, 0-based, END not included")  # fmt: skip
    _add_lmm_options(parser)
    parser.option("count-A2", dest="count_a2", action="store_true",
                  help="effects per copy of allele 2 (.bim column 6), not allele 1")  # fmt: skip
    _add_scan_options(parser)
    parser.option("transform", default="none", metavar="LIST",
                  help="of the phenotype: none, log, rint (normal scores), or several")  # fmt: skip
    parser.option("loco", action="store_true",
                  help="leave out the random effects of the variant's own chromosome")  # fmt: skip
    parser.option("exclude-window", type=float, metavar="KB",
                  help="leave out the random effects within KB kilobases of it")  # fmt: skip
    parser.option("tests", default="", metavar="NAMES",
                  help="further tests: levene,brown-forsythe,bartlett,drm,svlm")  # fmt: skip
    parser.option("spa-threshold", type=float, default=2.0, metavar="SD",
                  help="scores above this have saddlepoint tails, expanded where they are near "
                  "enough to normal; 0 all, inf none")  # fmt: skip
    _add_run_options(parser)
    return parser


def _add_lmm_options(parser: _Parser) -> None:
    parser.option("model", choices=["hlmm", "lmm"], default="hlmm",
                  help="effects on mean and variance; or a mixed model of the mean")  # fmt: skip
    parser.option("kinship", metavar="FILE",
                  help="lmm: relationship matrix, .npz, .npy, .grm.bin or .txt")  # fmt: skip
    parser.option("grm-from", metavar="GENO", help="lmm: compute the matrix from this .bed")
    parser.option("grm-kind", choices=["standardised", "centred", "scaled"],
                  default="standardised", help="lmm: as --kind of hlmm-kinship")  # fmt: skip
    parser.option("grm-min-maf", type=float, default=0.01,
                  help="lmm: compute it from variants with MAF above this")  # fmt: skip
    parser.option("lmm-test", choices=["refit", "fixed"], default="refit",
                  help="lmm: find the variance ratio for every variant, or keep one")  # fmt: skip


def _chr_parser() -> _Parser:
    parser = _parser(
        "hlmm_chr.py", "hlmm_chr.py's command line: fit the variants START to END-1 of a .bed."
    )
    parser.add_argument("genofile", help=".bed with .bim and .fam beside it")
    parser.add_argument("start", type=int, help="first variant, 0-based")
    parser.add_argument("end", type=int, help="variant to stop before")
    parser.add_argument("phenofile", help="FID IID values")
    parser.add_argument("outprefix", help="start of the output files' names")
    parser.option("whole-chr", action="store_true", help="all variants; START and END are ignored")
    parser.option("append", action="store_true",
                  help="add the rows to an existing OUTPREFIX.models.gz")  # fmt: skip
    _add_scan_options(parser)
    parser.option("workers", type=int, help="worker processes; all cores by default")
    return parser


def _fit_parser() -> _Parser:
    parser = _parser(
        "fit_hlmm_model.py", "fit_hlmm_model.py's command line: fit one model, without variants."
    )
    parser.add_argument("phenofile", help="FID IID values")
    parser.add_argument("outprefix", help="start of the output files' names")
    _add_model_options(parser)
    return parser


def _dispersion_parser() -> _Parser:
    parser = _parser("hlmm-dispersion", "Add dispersion effects to a table of a scan, or of hlmm.")
    parser.add_argument("table", help="OUTPREFIX.models.gz")
    parser.add_argument("out", help="table to be written (gzipped)")
    _add_dispersion_options(parser.option)
    parser.option("overwrite", action="store_true", help="replace an existing table")
    return parser


def _loci_parser() -> _Parser:
    parser = _parser(
        "hlmm-loci", "Refit the lead variants of a finished scan: does what it found hold?"
    )
    parser.add_argument("outprefix", help="OUTPREFIX of the scan")
    parser.option("tests", default="all", metavar="NAMES",
                  help="mean,variance,joint and, if the run had it, dispersion")  # fmt: skip
    parser.option("p", type=float, default=5e-8, help="largest p-value of a lead")
    parser.option("window", type=float, default=500.0, metavar="KB",
                  help="distance within which variants may belong together")  # fmt: skip
    parser.option("r2", type=float, default=0.1,
                  help="r² above which the weaker of two variants is no lead")  # fmt: skip
    parser.option("top", type=int, default=100, metavar="N", help="most leads of each test")
    parser.option("neighbour-p", type=float, default=1e-5, metavar="P",
                  help="largest p-value of the mean leads in the models")  # fmt: skip
    parser.option("gone-p", type=float, default=1e-3, metavar="P",
                  help="an effect is explained if its refitted p-value is above this")  # fmt: skip
    parser.option("share", type=float, default=0.5,
                  help="and its statistic below this share of what it was")  # fmt: skip
    parser.option("min-carriers", type=int, default=20, metavar="N",
                  help="samples with the rarer allele, for a verdict")  # fmt: skip
    parser.option("transform", default="none,log,rint", metavar="NAMES",
                  help="transforms of the phenotype to try")  # fmt: skip
    parser.option("by-sex", action="store_true", help="fit both sexes apart, as in the .fam")
    parser.option("sex", metavar="FILE", help="FID IID sex (1 male, 2 female), instead of the .fam")
    parser.option("plots", action="store_true", help="draw OUTPREFIX.loci/*.png")
    group = "else the file of the run"
    parser.option("genofile", nargs="+", metavar="BED", help=f"genotypes; {group}")
    parser.option("phenofile", metavar="FILE", help=f"phenotypes; {group}")
    for name, of in (("mean", "mean"), ("var", "log variance")):
        parser.option(f"{name}-covar", metavar="FILE", help=f"covariates of the {of}; {group}")
        parser.option(f"{name}-covar-cols", metavar="COLUMNS", help="columns of that file")
    parser.option("random-gts", metavar="BED", help=f"variants of the random effects; {group}")
    parser.option("missing-char", metavar="TOKEN", help="missing value in the tables")
    return parser


def _kinship_parser() -> _Parser:
    parser = _parser("hlmm-kinship", "Compute the realised relationship matrix from genotypes.")
    parser.add_argument(
        "genofile", nargs="+",
        help=".bed with .bim and .fam beside it, several, or a pattern with @ for the chromosome",
    )  # fmt: skip
    parser.add_argument("outprefix", help="start of the output files' names")
    parser.option("kind", choices=["standardised", "centred", "scaled"], default="standardised",
                  help="GCTA's; GEMMA's -gk 1; GEMMA's -gk 2")  # fmt: skip
    parser.option("format", choices=["npz", "grm", "text"], default="npz",
                  help="npz; GCTA's .grm.bin, .grm.id, .grm.N.bin; text with .id")  # fmt: skip
    parser.option("loco", action="store_true",
                  help="also one matrix without each chromosome: OUTPREFIX.loco_NAME")  # fmt: skip
    parser.option("keep", metavar="FILE", help="only these samples: FID IID")
    parser.option("extract", metavar="FILE", help="only these variants: one ID a line")
    parser.option("min-maf", type=float, default=0.01, help="use variants with MAF above this")
    parser.option("max-missing", type=float, default=5.0,
                  help="use variants with a percentage of missing calls below this")  # fmt: skip
    parser.option("scheduler", metavar="ADDRESS", help="running Dask scheduler, tcp://host:port")
    parser.option("scheduler-file", metavar="FILE", help="file with its address")
    parser.option("workers", type=int,
                  help="start so many worker processes; else threads of this process")  # fmt: skip
    parser.option("overwrite", action="store_true", help="replace existing output")
    return parser


def _report_parser() -> _Parser:
    parser = _parser(
        "hlmm-report", "Write OUTPREFIX.report.html, one file to be looked at in a browser."
    )
    parser.add_argument(
        "outprefix", nargs="+", help="OUTPREFIX of the scan; several scans are compared"
    )
    parser.option("plots", action="store_true", help="draw OUTPREFIX.plots/*.png and *.svg too")
    parser.option("window", type=float, default=500.0, metavar="KB",
                  help="a weaker variant so near is no locus of its own")  # fmt: skip
    return parser


def _munge_parser() -> _Parser:
    parser = _parser("hlmm-munge", "Write the results of a scan in the formats of other programs.")
    parser.add_argument("outprefix", help="OUTPREFIX of the scan")
    parser.option("format", required=True, metavar="FORMATS", help=_FORMATS)
    parser.option("effect", metavar="EFFECTS",
                  help="one or more of mean,variance,dispersion; all by default")  # fmt: skip
    parser.option("assembly", metavar="NAME", help="genome assembly of the positions, as GRCh38")
    _add_dispersion_options(parser.option)
    parser.option("overwrite", action="store_true", help="replace existing files")
    return parser


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
            **{name: getattr(options, name) for name in _LMM},
            exclude_window=options.exclude_window,
            spa_threshold=options.spa_threshold,
            tests=tuple(name.strip() for name in options.tests.split(",") if name.strip()),
            **{name: getattr(options, name) for name in _CLUSTER},
            jobqueue_option=tuple(options.jobqueue_option),
            block_size=options.block_size,
            dispersion=options.dispersion,
            **{name: getattr(options, name) for name in _DISPERSION},
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

    print(
        "effects are per copy of allele 2 (.bim column 6), as hlmm counted; "
        "hlmm-scan counts allele 1",
        file=sys.stderr,
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
    from hlmm_dask.scanning.heap import keep_memory
    from hlmm_dask.scanning.job import run_job
    from hlmm_dask.scanning.log import RunLog
    from hlmm_dask.scanning.logs import off_terminal
    from hlmm_dask.transforms import chosen_transforms
    from hlmm_dask.view.closing import make_reports, show_loci
    from hlmm_dask.view.terminal import TerminalProgress, print_summary

    imports_done()
    if options.is_process and job.cluster.is_local:
        start_fork_server(compiled=job.model == "hlmm")
    if options.is_process:
        keep_memory()

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
        print(line, file=sys.stderr)


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

    imports_done()
    with TerminalProgress() as progress:
        lines = plan_lines(dry_run(job, (progress,)))
    print_rows("Plan (nothing was written)", list(lines.items()), console=Console())


def _common(options: argparse.Namespace) -> dict[str, Any]:
    names = (
        "mean_covar", "var_covar", "random_gts", "random_gts_txt", "h2_init", "phen_index",
        "missing_char", "no_h2_estimate", "mean_covar_cols", "var_covar_cols", "fit_covariates",
        "min_maf", "max_missing",
        "no_covariate_estimates", "workers",
    )  # fmt: skip
    return {name: getattr(options, name) for name in names}


def _dispersion(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.dispersion import add_dispersion

    how = _dispersion_options(options)
    lines = add_dispersion(options.table, options.out, how, overwrite=options.overwrite)
    print("\n".join(lines), file=sys.stderr)


def _dispersion_options(options: argparse.Namespace) -> "DispersionOptions":
    from hlmm_dask.models.dispersion import DispersionOptions

    return DispersionOptions(*(getattr(options, name) for name in _DISPERSION))


def _loci(options: argparse.Namespace) -> None:
    from hlmm_dask.followup.loci import LociOptions, loci, verdict_lines

    names = [name for name in LociOptions.__dataclass_fields__ if hasattr(options, name)]
    given = {name: getattr(options, name) for name in names}
    if options.genofile is not None and len(options.genofile) == 1:
        given["genofile"] = options.genofile[0]  # may be a pattern
    for line in verdict_lines(loci(options.outprefix, **given)):
        print(line)


def _kinship(options: argparse.Namespace) -> None:
    from hlmm_dask.scanning.kinship_job import KinshipJob, run_kinship

    given = vars(options) | {"file_format": options.format}
    job = KinshipJob(**{name: given[name] for name in KinshipJob.__dataclass_fields__})
    for line in run_kinship(job):
        print(line, file=sys.stderr)


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
        missing_char=options.missing_char,
        no_h2_estimate=options.no_h2_estimate,
    )


if __name__ == "__main__":
    sys.exit(scan_main())
