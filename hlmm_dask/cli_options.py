"""Options of the command lines."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import hlmm_dask
from hlmm_dask.option_rules import require
from hlmm_dask.printable import line_of, say

EXIT_OK, EXIT_FAILED, EXIT_INPUT = 0, 1, 2


def joined(arguments: Sequence[str]) -> list[str]:
    """Join ``--missing-char`` with a list that starts with a negative number."""
    words: list[str] = []
    for word in arguments:
        negative = len(word) > 1 and word[0] == "-" and word[1].isdecimal()
        if negative and words and words[-1] in ("--missing-char", "--missing_char"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


class _Once(argparse.Action):
    """Store a value; refuse an option that is given twice, in either spelling."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value, or the constant of a flag."""
        if option_string is not None:
            given: set[str] = vars(namespace).setdefault("given", set())
            if self.dest in given:
                parser.error(f"{self.option_strings[0]} is given twice; give it once")
            given.add(self.dest)
        setattr(namespace, self.dest, values if self.nargs != 0 else self.const)


class _Flag(_Once):
    """Store True."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        default = settings.pop("default", False)
        super().__init__(option_strings, dest, nargs=0, const=True, default=default, **settings)


class _Version(argparse.Action):
    """Print the version of the package and end."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Look it up now: most commands don't need it."""
        say(f"{parser.prog} {hlmm_dask.__version__}", stream=sys.stdout)
        parser.exit(EXIT_OK)


class Parser(argparse.ArgumentParser):
    """Options with hyphens or underscores, each at most once; errors in one line, exit code 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, action in ((None, _Once), ("store", _Once), ("store_true", _Flag)):
            self.register("action", name, action)
        self.add_argument("--version", action=_Version, help="print the version and end")

    def option(
        self, name: str, *, group: "argparse._ArgumentGroup | None" = None, **settings: Any
    ) -> None:
        """Add ``--name`` in both spellings, to a group of options if that is given."""
        names = dict.fromkeys([f"--{name}", f"--{name.replace('-', '_')}"])
        if "choices" in settings:
            settings["type"] = str.lower
        (group or self).add_argument(*names, **settings)

    def check(self, options: argparse.Namespace) -> None:
        """Raise an `InputError` for options that have no effect, or contradict each other."""
        given = vars(options)
        require(given, {name: self.get_default(name) for name in given})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end."""
        self.exit(
            EXIT_INPUT, f"{line_of(f'{self.prog}: error: {message} (see {self.prog} --help)')}\n"
        )


def new_parser(program: str, description: str) -> Parser:
    """Options that show their defaults, and are given in full."""
    return Parser(
        prog=program,
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def _add_model_options(parser: Parser, phenotypes: str = "; 1,3,5-8; all") -> None:
    parser.option("mean-covar", metavar="FILE", help="covariates of the mean: FID IID values")
    parser.option(
        "var-covar", metavar="FILE", help="covariates of the log variance: FID IID values"
    )
    for name in ("mean", "var"):
        parser.option(f"{name}-covar-cols", default="all", metavar="COLUMNS",
                      help="columns of that file: positions or names, as in age,3-5")  # fmt: skip
    parser.option("random-gts", metavar="FILE", help=".bed with the variants of the random effects")
    parser.option(
        "random-gts-txt",
        action="store_true",
        help="--random-gts is a text file: FID IID x1 x2 ...",
    )
    parser.option("h2-init", type=float, default=0.05,
                  help="start of h2, as a share of the phenotype's variance")  # fmt: skip
    parser.option(
        "phen-index", default="1", metavar="N|NAME",
        help=f"column of the phenotypes: position, name, name:NAME{phenotypes}",
    )  # fmt: skip
    _add_missing_options(parser)
    parser.option("no-h2-estimate", action="store_true", help="don't write the h2 estimate")


def _add_missing_options(parser: Parser) -> None:
    parser.option("missing-char", action="append", default=[], metavar="TOKENS",
                  help="further missing values in the tables, as -99,x; NA, NaN, . and empty "
                  "fields always are, -9 in phenotypes")  # fmt: skip
    parser.option("no-minus9", action="store_true",
                  help="-9 in phenotypes is a number, not a missing value")  # fmt: skip


def _add_scan_options(parser: Parser) -> None:
    _add_model_options(parser)
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


def _add_run_options(parser: Parser) -> None:
    group = parser.add_argument_group("cluster and output")

    option = partial(parser.option, group=group)
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


DISPERSION_OPTIONS = ("dispersion_blocks", "dispersion_exclude", "dispersion_slope_error")
LMM_OPTIONS = (
    "model", "kinship", "grm_from", "grm_kind", "grm_min_maf", "grm_all_chromosomes",
    "autosome_num", "lmm_test",
)  # fmt: skip
_AUTOSOME_NUM: dict[str, Any] = {"type": int, "default": 22, "metavar": "N"}
_FORMATS = "files for other programs: one or more of ssf,ldsc,regenie,gwas-vcf"
CLUSTER_OPTIONS = (
    "scheduler", "scheduler_file", "threads_per_worker", "memory_limit", "timeout",
    "no_workers_timeout", "tls_ca", "tls_cert", "tls_key", "insecure", "jobqueue", "queue",
    "account", "walltime", "local_directory", "cores",
)  # fmt: skip


def _add_cluster_options(
    option: Callable[..., None], workers: str = "worker processes; all cores by default"
) -> None:
    option("scheduler", metavar="ADDRESS", help="running Dask scheduler, tcp://host:port")
    option("scheduler-file", metavar="FILE", help="file with a running scheduler's address")
    option("workers", type=int, help=workers)
    option("threads-per-worker", type=int, default=1, help="threads of each")
    option("memory-limit", default="auto", help="memory of each worker, such as 4GiB")
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


def scan_parser() -> Parser:
    """Options of ``hlmm-scan``."""
    parser = new_parser(
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


def _add_lmm_options(parser: Parser) -> None:
    parser.option("model", choices=["hlmm", "lmm"], default="hlmm",
                  help="effects on mean and variance; or a mixed model of the mean")  # fmt: skip
    parser.option("kinship", metavar="FILE",
                  help="lmm: relationship matrix, .npz, .npy, .grm.bin or .txt")  # fmt: skip
    parser.option("grm-from", metavar="GENO", help="lmm: compute the matrix from this .bed")
    parser.option("grm-kind", choices=["standardised", "centred", "scaled"],
                  default="standardised", help="lmm: as --kind of hlmm-kinship")  # fmt: skip
    parser.option("grm-min-maf", type=float, default=0.01,
                  help="lmm: compute it from variants with MAF above this")  # fmt: skip
    parser.option("grm-all-chromosomes", action="store_true",
                  help="lmm: also from variants on X, Y, MT and unplaced ones")  # fmt: skip
    parser.option("autosome-num", **_AUTOSOME_NUM,
                  help="lmm: compute it from variants on chromosomes 1 to N")  # fmt: skip
    parser.option("lmm-test", choices=["refit", "fixed"], default="refit",
                  help="lmm: find the variance ratio for every variant, or keep one")  # fmt: skip


def chr_parser() -> Parser:
    """Options of ``hlmm-chr``."""
    parser = new_parser(
        "hlmm-chr", "hlmm_chr.py's command line: fit the variants START to END-1 of a .bed."
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


def fit_parser() -> Parser:
    """Options of ``hlmm-fit``."""
    parser = new_parser(
        "hlmm-fit", "fit_hlmm_model.py's command line: fit one model, without variants."
    )
    parser.add_argument("phenofile", help="FID IID values")
    parser.add_argument("outprefix", help="start of the output files' names")
    _add_model_options(parser, "")
    return parser


def dispersion_parser() -> Parser:
    """Options of ``hlmm-dispersion``."""
    parser = new_parser(
        "hlmm-dispersion", "Add dispersion effects to a table of a scan, or of hlmm."
    )
    parser.add_argument("table", help="OUTPREFIX.models.gz")
    parser.add_argument("out", help="table to be written (gzipped)")
    _add_dispersion_options(parser.option)
    parser.option("overwrite", action="store_true", help="replace an existing table")
    return parser


def loci_parser() -> Parser:
    """Options of ``hlmm-loci``."""
    parser = new_parser(
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
    parser.option("sex", metavar="FILE", help="FID IID sex (1 or M, 2 or F), instead of the .fam")
    parser.option("plots", action="store_true", help="draw OUTPREFIX.loci/*.png")
    group = "else the file of the run"
    parser.option("genofile", nargs="+", metavar="BED", help=f"genotypes; {group}")
    parser.option("phenofile", metavar="FILE", help=f"phenotypes; {group}")
    for name, of in (("mean", "mean"), ("var", "log variance")):
        parser.option(f"{name}-covar", metavar="FILE", help=f"covariates of the {of}; {group}")
        parser.option(f"{name}-covar-cols", metavar="COLUMNS", help="columns of that file")
    parser.option("random-gts", metavar="BED", help=f"variants of the random effects; {group}")
    _add_missing_options(parser)
    return parser


def kinship_parser() -> Parser:
    """Options of ``hlmm-kinship``."""
    parser = new_parser("hlmm-kinship", "Compute the realised relationship matrix from genotypes.")
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
    parser.option("autosome-num", **_AUTOSOME_NUM,
                  help="use variants on chromosomes 1 to N")  # fmt: skip
    parser.option("all-chromosomes", action="store_true",
                  help="also those on X, Y, MT and unplaced ones")  # fmt: skip
    _add_cluster_options(
        parser.option, "start so many worker processes; by default threads of this process"
    )
    parser.option("overwrite", action="store_true", help="replace existing output")
    return parser


def report_parser() -> Parser:
    """Options of ``hlmm-report``."""
    parser = new_parser(
        "hlmm-report", "Write OUTPREFIX.report.html, one file to be looked at in a browser."
    )
    parser.add_argument(
        "outprefix", nargs="+", help="OUTPREFIX of the scan; several scans are compared"
    )
    parser.option("plots", action="store_true", help="draw OUTPREFIX.plots/*.png and *.svg too")
    parser.option("window", type=float, default=500.0, metavar="KB",
                  help="a weaker variant so near is no locus of its own")  # fmt: skip
    return parser


def munge_parser() -> Parser:
    """Options of ``hlmm-munge``."""
    parser = new_parser(
        "hlmm-munge", "Write the results of a scan in the formats of other programs."
    )
    parser.add_argument("outprefix", help="OUTPREFIX of the scan")
    parser.option("format", required=True, metavar="FORMATS", help=_FORMATS)
    parser.option("effect", metavar="EFFECTS",
                  help="one or more of mean,variance,dispersion; all by default")  # fmt: skip
    parser.option("assembly", metavar="NAME", help="genome assembly of the positions, as GRCh38")
    _add_dispersion_options(parser.option)
    parser.option("overwrite", action="store_true", help="replace existing files")
    return parser
