"""Which options need which others, and which exclude each other: one table for all commands.

An option is given if its value is not the default. Commands and Python functions check what they
were given with `require`; a rule about an option that a command lacks does not concern it.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from hlmm_dask.errors import InputError


@dataclass(frozen=True)
class Condition:
    """That an option is given, or has a value.

    Attributes
    ----------
    option : str
        Its name, with underscores.
    label : str
        How messages name the condition.
    holds : callable, optional
        Tells from the value; by default the option is given if it is not the default.
    """

    option: str
    label: str
    holds: Callable[[Any], bool] | None = None


@dataclass(frozen=True)
class Rule:
    """A condition that requires one of others, or excludes another.

    Attributes
    ----------
    first : Condition
        Where it does not hold, the rule says nothing.
    others : tuple of Condition
        Those of which it requires one, or the one that it excludes.
    excludes : bool
        Which of the two.
    why : str
        The reason, for the message; may be empty.
    """

    first: Condition
    others: tuple[Condition, ...]
    excludes: bool
    why: str

    def message(self, options: Container[str]) -> str:
        """Say what is wrong where the rule is broken, to someone who has these options."""
        labels = [other.label for other in self.others if other.option in options]
        if self.excludes:
            said = f"{self.first.label} and {labels[0]} exclude each other"
        else:
            said = f"{self.first.label} requires {' or '.join(labels)}"
        return f"{said}: {self.why}" if self.why else said


def spelled(option: str) -> str:
    """Return an option as it is typed."""
    # The attribute of --connect-timeout has an older name.
    return "--connect-timeout" if option == "timeout" else f"--{option.replace('_', '-')}"


def _condition(text: str | Condition) -> Condition:
    if isinstance(text, Condition):
        return text
    option, equals, value = text.partition("=")
    if not equals:
        return Condition(option, spelled(option))
    return Condition(option, f"{spelled(option)} {value}", lambda given: given == value)


def _needs(first: str, *others: str | Condition, why: str = "") -> Rule:
    return Rule(_condition(first), tuple(map(_condition, others)), False, why)


def _excludes(first: str, other: str, why: str = "") -> Rule:
    return Rule(_condition(first), (_condition(other),), True, why)


def _listed(option: str, label: str, word: str) -> Condition:
    """Make the condition that a list has a word, or is left out and stands for all."""
    return Condition(option, label, lambda text: not text or word in str(text).lower())


_GRM = ("grm_kind", "grm_min_maf", "grm_all_chromosomes", "autosome_num")

RULES = (
    # The mixed model of the mean
    *(
        _excludes(name, "model=lmm", why)
        for name, why in (
            ("var_covar", "the mixed model has no effects on the variance"),
            ("var_covar_cols", "the mixed model has no effects on the variance"),
            ("dispersion", "the mixed model has no effects on the variance"),
            ("tests", "the mixed model has no tests of the variance"),
            ("spa_threshold", "the mixed model has no score tests"),
            ("fit_covariates", "the mixed model keeps the covariates for every variant"),
            ("random_gts", "give the relationship matrix: --kinship or --grm-from"),
            ("random_gts_txt", "give the relationship matrix: --kinship or --grm-from"),
            ("h2_init", "the mixed model needs no start value"),
            ("h2", "give --lmm-test"),
            ("method", "the mixed model is fitted in one way"),
            ("engine", "the mixed model has one engine"),
            ("exclude_window", "give --loco"),
        )
    ),
    *(
        _needs(name, "model=lmm")
        for name in ("kinship", "grm_from", "lmm_test", *_GRM)
    ),
    _needs("model=lmm", "kinship", "grm_from", why="it needs one relationship matrix"),
    _excludes("kinship", "grm_from", "the model has one relationship matrix"),
    *(_needs(name, "grm_from", why="it says how the matrix is computed") for name in _GRM),
    _excludes("autosome_num", "all_chromosomes", "the second takes all of them"),
    _excludes("autosome_num", "grm_all_chromosomes", "the second takes all of them"),
    # Random effects
    _needs("random_gts_txt", "random_gts", why="it says how that file is read"),
    _needs("h2_init", "random_gts"),
    _needs("h2", "random_gts"),
    _needs("method", "random_gts"),
    _excludes("method", "fit_covariates", "with the covariates in every model all fits are exact"),
    _needs("no_h2_estimate", "random_gts", "model=lmm"),
    _needs("loco", "random_gts", "grm_from"),
    _needs("exclude_window", "random_gts"),
    _excludes("loco", "exclude_window", "the first leaves out whole chromosomes"),
    # Covariates
    _needs("mean_covar_cols", "mean_covar", why="it chooses columns of that file"),
    _needs("var_covar_cols", "var_covar", why="it chooses columns of that file"),
    _needs("fit_covariates", "mean_covar", "var_covar"),
    # Dispersion effects
    *(
        _needs(name, "dispersion", _listed("effect", "--effect dispersion", "dispersion"))
        for name in ("dispersion_blocks", "dispersion_exclude", "dispersion_slope_error")
    ),
    # Output
    _excludes("resume", "overwrite"),
    _needs(
        "assembly", _listed("format", "--format ssf", "ssf"), why="other formats do not name it"
    ),
    # Clusters
    _excludes("scheduler", "scheduler_file"),
    _excludes("scheduler", "jobqueue"),
    _excludes("scheduler_file", "jobqueue"),
    *(
        _excludes(name, where, "a running scheduler has its workers already")
        for name in ("workers", "threads_per_worker", "memory_limit")
        for where in ("scheduler", "scheduler_file")
    ),
    *(
        _needs(name, "jobqueue", why="it is for the jobs of a batch system")
        for name in (
            "queue", "account", "walltime", "cores", "local_directory", "jobqueue_option",
        )
    ),
    *(_needs(name, "scheduler", "scheduler_file") for name in ("tls_ca", "tls_cert", "tls_key")),
    _needs("insecure", "scheduler", "scheduler_file", "jobqueue",
           why="a cluster of this machine alone is always encrypted"),
    _needs("jobqueue", "workers", why="it is the number of worker processes"),
    # Chosen variants and groups of samples of a finished scan
    _needs("test", "top", why="it says whose best variants are taken"),
    _excludes("by_sex", "sex", "the first takes the sexes from the .fam"),
)  # fmt: skip


def require(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise an `InputError` for options that have no effect, or contradict each other.

    Parameters
    ----------
    given : mapping
        Values by name, with underscores.
    defaults : mapping
        What each option is where it is not given; None if it is not in it.
    """

    def holds(condition: Condition) -> bool:
        if condition.option not in given:
            return False
        value = given[condition.option]
        if condition.holds is not None:
            return condition.holds(value)
        return bool(value != defaults.get(condition.option))

    for rule in RULES:
        if not holds(rule.first) or not any(other.option in given for other in rule.others):
            continue
        if any(map(holds, rule.others)) == rule.excludes:
            raise InputError(rule.message(given))


def require_of(options: Any) -> None:
    """Check a dataclass of options as `require` does."""
    given, defaults = {}, {}
    for field in fields(options):
        given[field.name] = getattr(options, field.name)
        if field.default is not MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not MISSING:
            defaults[field.name] = field.default_factory()
    require(given, defaults)
