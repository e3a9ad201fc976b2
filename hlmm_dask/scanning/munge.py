"""Files for other programs from a finished store; see ``hlmm-munge``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from hlmm_dask.errors import InputError
from hlmm_dask.export import Values
from hlmm_dask.formats.effects import EFFECTS, Effect, effects_in, require_columns
from hlmm_dask.formats.munge import check_targets, write_formats
from hlmm_dask.models.dispersion import DispersionOptions, NotEstimable
from hlmm_dask.option_rules import require
from hlmm_dask.scanning.dispersion import dispersion_columns, estimate_dispersion
from hlmm_dask.scanning.outputs import check_outprefix
from hlmm_dask.store import ResultsStore

_DISPERSION = EFFECTS["dispersion"]


@dataclass(frozen=True)
class MungeJob:
    """What ``hlmm-munge`` is asked for.

    Attributes
    ----------
    outprefix : str
        Of a finished scan.
    formats, effects : tuple of str
        What to write; without ``effects`` all that can be had.
    assembly : str, optional
        Genome assembly of the positions.
    overwrite : bool
        Replace existing files.
    dispersion : DispersionOptions
        How dispersion effects are estimated.
    """

    outprefix: str
    formats: tuple[str, ...]
    effects: tuple[str, ...] = ()
    assembly: str | None = None
    overwrite: bool = False
    dispersion: DispersionOptions = field(default_factory=DispersionOptions)

    def check(self) -> "CheckedMunge":
        """See that all can be written, before anything is.

        Raises
        ------
        InputError, StoreError
            If the store is not complete, lacks an effect that was asked for, or a file exists.
        """
        require(
            {
                "format": ",".join(self.formats), "assembly": self.assembly,
                "effect": ",".join(self.effects),
                **{f"dispersion_{name}": value for name, value in vars(self.dispersion).items()},
            },
            {f"dispersion_{f.name}": f.default for f in fields(DispersionOptions)}
            | {"dispersion_blocks": "auto" if self.dispersion.blocks == "auto" else None},
        )  # fmt: skip
        store = ResultsStore.open(f"{self.outprefix}.zarr")
        check_outprefix(self.outprefix)
        store.require_intact()
        store.require_complete()
        require_columns(store)
        there = {effect.name: effect for effect in effects_in(store.columns)}
        if "mean" in there and "variance" in there:
            there |= {_DISPERSION.name: _DISPERSION}
        for name in self.effects:
            if name not in there:
                raise InputError(
                    f"{store.path}: has no effect '{name}', expected {' or '.join(there)}"
                )
        chosen = list(self.effects or there)
        check_targets(self.outprefix, self.formats, chosen, overwrite=self.overwrite)
        extra: Mapping[str, Values] = {}
        notes: list[str] = []
        if _DISPERSION.name in chosen and not {*_DISPERSION.required} <= {*store.columns}:
            result = estimate_dispersion(store, self.dispersion)
            if not isinstance(result, NotEstimable):
                extra = dispersion_columns(result)
            elif self.effects:
                raise InputError(f"{store.path}: no dispersion effects: {result.reason}")
            else:
                notes.append(f"no dispersion effects: {result.reason}")
                chosen.remove(_DISPERSION.name)
        return CheckedMunge(self, store, [there[name] for name in chosen], extra, notes)


@dataclass(frozen=True)
class CheckedMunge:
    """A `MungeJob` whose files can be written, and what they are written from."""

    job: MungeJob
    store: ResultsStore
    effects: Sequence[Effect]
    extra: Mapping[str, Values]
    notes: Sequence[str]

    def write(self) -> list[str]:
        """Write the files; returns one line for each, and notes."""
        written = write_formats(
            self.store,
            self.job.outprefix,
            formats=self.job.formats,
            effects=self.effects,
            extra=self.extra,
            assembly=self.job.assembly,
        )
        return [*self.notes, *written]
