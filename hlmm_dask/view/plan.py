"""The plan of a dry run in words."""

from hlmm_dask.scanning.dry_run import DryRun
from hlmm_dask.scanning.memory import usable_bytes
from hlmm_dask.view.terminal import count, duration

_KERNELS = {
    "sums": "HLM, from sums by genotype class",
    "covariates": "HLM, covariates in every model",
    "exact": "HLMM, exact",
    "linear": "HLMM, linear in the random effects",
    "auto": "HLMM, linear in the random effects, exact where it matters",
    "lmm-refit": "LMM, variance ratio found anew for each variant",
    "lmm-fixed": "LMM, variance ratio of the null model",
    "dense": "HLMM, covariates in every model, one variant at a time (slow)",
}


def plan_lines(dry: DryRun) -> dict[str, str]:
    """Lines of a plan: what, and how much."""
    plan, resources = dry.plan, dry.plan.resources
    rows: dict[str, str] = {}
    for null, kernel, probe in zip(dry.nulls, dry.kernels, dry.probes, strict=True):
        steps = ", ".join(f"{n:,} {step}" for step, n in null.accounting)
        name = f"phenotype '{null.title}'"
        rows[name] = f"{null.n_samples:,} of {null.n_file_samples:,} samples of the file ({steps})"
        random = f"; {null.n_random:,} random effects" if null.n_random else ""
        rows[f"{name}, model"] = _KERNELS[kernel] + random
        rows[f"{name}, probe"] = (
            f"{1e3 * probe.seconds:.3g} ms a variant on one core ({probe.n_variants:,} variants "
            f"tried, {probe.fitted:.0%} of them fitted)"
        )
    rows["variants"] = f"{plan.n_variants:,}"
    done = f", {dry.n_done_blocks:,} done in an earlier run" if dry.n_done_blocks else ""
    rows["blocks"] = (
        f"{count(plan.n_blocks, 'block')} of at most {count(plan.block_size, 'variant')}{done}"
    )
    rows["workers"] = f"{resources.n_workers:,}, {count(resources.threads, 'thread')} each"
    limit = resources.memory_limit
    rows["memory of a worker"] = f"{size(plan.needed_bytes)} at most"
    if limit is not None:
        rows["memory of a worker"] += f"; {size(usable_bytes(limit) or 0)} of {size(limit)} usable"
        rows["largest n in that memory"] = f"{plan.largest_n:,} samples"
    rows["memory of this command"] = f"about {size(dry.client_bytes)}, besides the workers"
    rows["expected time"] = f"about {duration(dry.seconds)} (an estimate from the probe)"
    for suffix, n_bytes in dry.sizes.items():
        rows[f"expected size, {suffix}"] = f"about {size(n_bytes)}"
    rows["free space"] = size(dry.free_bytes)
    return rows


def size(n_bytes: float) -> str:
    """Return bytes in words: 640 B, 1.4 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"
