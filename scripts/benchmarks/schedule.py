"""The schedule of a large scan, simulated from rates."""

import heapq
from dataclasses import dataclass
from typing import Any

from hlmm_dask.genotypes.packed import packed_width


@dataclass(frozen=True)
class Rates:
    """What a schedule is simulated from; seconds, bytes per second, rows per second."""

    start: float
    read: float
    storage: float
    kernel_per_genotype: float
    kernel_per_variant: float
    schedule_per_block: float
    write_per_block: float
    table_rows: float


def simulate(rates: Rates, samples: int, variants: int, block: int, cores: int) -> float:
    """Seconds that a scan takes on a number of cores.

    Blocks are handed out in order, each to the core that is free first. A block waits for the
    scheduler, which gives out one after the other; then for the shared storage, which serves one
    after the other at its full rate, while a core takes no more than its own rate; then it is
    fitted and written by its core alone. Start and the final table come on top, serial. Without
    the ends of the queue that is

        start + max(blocks (read + fit + write) / cores, blocks schedule, bytes / storage)
        + variants / table_rows
    """
    width = packed_width(samples)
    free = [0.0] * cores
    scheduler = storage = last = 0.0
    for first in range(0, variants, block):
        size = min(block, variants - first)
        scheduler = max(free[0], scheduler) + rates.schedule_per_block
        reading = max(scheduler, storage)
        storage = reading + size * width / rates.storage
        end = max(storage, reading + size * width / rates.read)
        end += size * (samples * rates.kernel_per_genotype + rates.kernel_per_variant)
        end += rates.write_per_block
        heapq.heapreplace(free, end)
        last = max(last, end)
    return rates.start + last + variants / rates.table_rows


def schedule(
    rates: Rates, samples: int, variants: int, block: int, cores: list[int]
) -> dict[str, Any]:
    """Hours on each number of cores, and where more of them are of no more use."""
    one = simulate(rates, samples, variants, block, 1)
    rows = []
    for k in cores:
        seconds = simulate(rates, samples, variants, block, k)
        rows.append(
            {
                "cores": k,
                "hours": seconds / 3600,
                "core_hours": k * seconds / 3600,
                "efficiency": one / seconds / k,
            }
        )
    # What is shared or serial; the parallel part is all that more cores make faster.
    shared = {
        "scheduler": -(-variants // block) * rates.schedule_per_block,
        "storage": variants * packed_width(samples) / rates.storage,
        "start and table": rates.start + variants / rates.table_rows,
    }
    parallel = one - shared["start and table"]
    slowest = max(shared, key=shared.__getitem__)
    return {
        "schedule": rows,
        "hours on one core": one / 3600,
        **{f"serial hours: {name}": seconds / 3600 for name, seconds in shared.items()},
        "saturated by": slowest,
        "cores at which it saturates": int(parallel / shared[slowest]) + 1,
    }
