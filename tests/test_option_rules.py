"""No option of any command is without effect, or given twice, and nobody hears of it."""

import argparse
from dataclasses import fields
from importlib.metadata import entry_points

import numpy as np
import pytest

import hlmm_dask
from hlmm_dask import cli, cli_followup, cli_options
from hlmm_dask.errors import InputError
from hlmm_dask.followup.check import CheckJob, run_check
from hlmm_dask.followup.interact import InteractJob, run_interact
from hlmm_dask.models.dispersion import DispersionOptions
from hlmm_dask.option_rules import RULES
from hlmm_dask.scanning.cluster import ClusterOptions
from hlmm_dask.scanning.fit_model import fit_model
from hlmm_dask.scanning.job import ScanJob, run_job
from hlmm_dask.scanning.munge import MungeJob

PARSERS = {
    make().prog: make
    for make in (
        cli_options.scan_parser, cli_options.chr_parser, cli_options.fit_parser,
        cli_options.dispersion_parser, cli_options.loci_parser, cli_options.kinship_parser,
        cli_options.report_parser, cli_options.munge_parser, cli_followup._check_parser,
        cli_followup._interact_parser,
    )
}  # fmt: skip

# Options that have an effect with whatever else is given.
ALWAYS = {
    "input": "mean_covar var_covar random_gts phen_index missing_char genofile phenofile keep "
    "extract covar no_minus9 all_chromosomes",
    "which variants": "range whole_chr min_maf max_missing variants top all",
    "model": "model transform count_a2 engine spa_threshold tests dispersion scheduler "
    "scheduler_file jobqueue timeout no_workers_timeout block_size",
    "output": "no_covariate_estimates parquet tabix format report plots resume overwrite append "
    "dry_run effect kind",
    "cluster": "workers threads_per_worker memory_limit",
    "loci": "p window r2 neighbour_p gone_p share min_carriers sex",
    "checks": "permutations bootstrap seed",
    # The slope is what hlmm-dispersion and hlmm-munge are for.
    "dispersion": "dispersion_blocks dispersion_exclude dispersion_slope_error",
}
VALUES = {
    "effect": "mean", "format": "ldsc", "transform": "log", "tests": "drm", "range": ["1", "2"],
    "dispersion_blocks": "9", "model": "lmm", "jobqueue_option": "interface=ib0",
}  # fmt: skip
REPEATED = ("jobqueue_option", "missing_char")


def options_of(parser):
    """The options of a command by name, but those that end it."""
    return {
        action.dest: action
        for action in parser._actions
        if action.option_strings and action.dest not in ("help", argparse.SUPPRESS)
    }


def words(action, spelling=-1):
    """An option with a value that is not its default."""
    name = action.option_strings[spelling]
    if action.nargs == 0:
        return [name]
    if action.dest in VALUES and not action.choices:
        given = VALUES[action.dest]
        return [name, *given] if isinstance(given, list) else [name, given]
    if action.choices:
        return [name, next(c for c in action.choices if c != action.default)]
    return [name, {int: "7", float: "0.3"}.get(action.type, "x.txt")]


def positional(parser):
    """Words for the positional arguments."""
    return ["7" if action.type is int else "x" for action in parser._actions
            if not action.option_strings]  # fmt: skip


def needed(parser, options=()):
    """Words for options that the command can't do without, unless they are given."""
    found = []
    for action in options_of(parser).values():
        if action.required and action.dest not in options:
            found += words(action)
    groups = parser._mutually_exclusive_groups
    if groups and not {a.dest for g in groups for a in g._group_actions} & {*options}:
        found += ["--variants", "rs1"]
    return found


def refusal(make, argv, capsys):
    """What a command says that refuses a command line before it does anything."""

    def never(options):
        raise AssertionError(f"{argv}: taken")

    capsys.readouterr()
    try:
        code = cli.run(make(), argv, never)
    except SystemExit as end:
        code = end.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


EVERY = [(name, dest) for name, make in PARSERS.items() for dest in options_of(make())]


@pytest.mark.parametrize(("program", "option"), EVERY)
def test_an_option_is_given_once(program, option, capsys):
    parser = PARSERS[program]()
    action = options_of(parser)[option]
    if option in REPEATED:
        return
    for second in {0, len(action.option_strings) - 1}:
        argv = [*positional(parser), *needed(parser, [option]), *words(action, 0)]
        line = refusal(PARSERS[program], [*argv, *words(action, second)], capsys)
        assert f"{action.option_strings[0]} is given twice; give it once" in line


@pytest.mark.parametrize(("program", "option"), EVERY)
def test_it_is_known_when_an_option_has_an_effect(program, option):
    always = {name for names in ALWAYS.values() for name in names.split()}
    ruled = {rule.first.option for rule in RULES}
    assert option in always | ruled, f"--{option}: is a rule missing?"


def cases():
    for program, make in PARSERS.items():
        options = options_of(make())
        for rule in RULES:
            others = [o.option for o in rule.others if o.option in options]
            if rule.first.option in options and others:
                yield program, rule, others


@pytest.mark.parametrize(
    ("program", "rule", "others"),
    [pytest.param(*case, id=f"{case[0]} {case[1].first.label} {case[2][0]}") for case in cases()],
)
def test_what_has_no_effect_is_refused(program, rule, others, capsys):
    parser = PARSERS[program]()
    options = options_of(parser)
    given = [rule.first.option]
    if rule.excludes or (rule.others[-1].holds and others[0] in ("effect", "format")):
        given += others
    argv = [*positional(parser), *needed(parser, given)]
    for name in dict.fromkeys(given):
        argv += words(options[name])
    line = refusal(PARSERS[program], argv, capsys)
    # Another rule about the same option may come first.
    known = [
        each.message(options)
        for each in RULES
        if each.first.option in given and {o.option for o in each.others} & options.keys()
    ]
    assert any(message in line for message in known)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run_job(job(dispersion_exclude=1e-3)), "--dispersion-exclude requires --disp"),
        (lambda: run_job(job(h2="null")), "--h2 requires --random-gts"),
        (lambda: run_job(job(model="lmm")), "--model lmm requires --kinship or --grm-from"),
        (lambda: run_job(job(grm_min_maf=0.2)), "--grm-min-maf requires --model lmm"),
        (lambda: run_job(job(resume=True, overwrite=True)), "exclude each other"),
        (lambda: run_job(job(queue="q")), "--queue requires --jobqueue"),
        (lambda: ClusterOptions(insecure=True).check(), "--insecure requires"),
        (lambda: fit_model(phenofile="x", outprefix="x", h2_init=0.2), "--h2-init requires"),
        (lambda: next(run_check(CheckJob("x", variants="rs1", test="add"))), "--test requires"),
        (lambda: run_interact(InteractJob("x", "x", test="add")), "--test requires --top"),
        (lambda: hlmm_dask.loci("x", by_sex=True, sex="s.txt"), "--by-sex and --sex exclude"),
        (lambda: MungeJob("x", ("ldsc",), assembly="GRCh38").check(), "--assembly requires"),
        (lambda: munge(exclude=1e-3).check(), "--dispersion-exclude requires --effect disp"),
        (lambda: hlmm_dask.fit_null("x", "x", fit_covariates=True), "--fit-covariates requires"),
        (lambda: variants(method="exact"), "--method requires --random-gts"),
    ],
)  # fmt: skip
def test_python_refuses_the_same(tmp_path, monkeypatch, call, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        call()


def job(**options):
    """A job whose files are not there: it is refused before they are looked for."""
    return ScanJob("x.bed", "x.txt", "out", **options)


def munge(**options):
    """A job of the mean effects alone."""
    return MungeJob("x", ("ldsc",), ("mean",), dispersion=DispersionOptions(**options))


def variants(**options):
    """Tests of variants without random effects."""
    rng = np.random.default_rng(1)
    g = rng.binomial(2, 0.4, (3, 50)).astype(np.int8)
    return hlmm_dask.variant_tests(g, rng.standard_normal(50), **options)


def test_rules_name_options_that_exist():
    known = {field.name for field in fields(ScanJob)}
    known |= {dest for make in PARSERS.values() for dest in options_of(make())}
    for rule in RULES:
        assert {rule.first.option, *(other.option for other in rule.others)} <= known


@pytest.mark.parametrize("program", PARSERS)
def test_the_version_is_printed(program, capsys):
    with pytest.raises(SystemExit) as end:
        PARSERS[program]().parse_args(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"{program} {hlmm_dask.__version__}\n"


def test_commands_name_themselves_as_they_are_typed():
    scripts = entry_points(group="console_scripts")
    assert set(PARSERS) == {each.name for each in scripts if each.name.startswith("hlmm-")}
