"""Imported by the process that workers are forked from: loads what their first block needs.

Compiled loops are read from their cache, or compiled, once for all workers.
"""

import distributed.nanny
import numpy as np

from hlmm_dask.kernels.packed import PackedLayout, class_sums, pack_phenotype
from hlmm_dask.scanning import graph
from hlmm_dask.scanning.prestart import imports_done

__all__ = ["distributed", "graph", "warm_up"]


def warm_up() -> None:
    """Run the loops over packed genotypes once, with and without missing calls."""
    phenotype = pack_phenotype(PackedLayout(8, np.arange(8)), np.arange(8.0))
    packed = np.array([[0b00011011, 0b11100100], [0b00101110, 0b11100010]], dtype=np.uint8)
    for powers in (2, 4):
        class_sums(packed, phenotype, powers=powers)


warm_up()
# What workers share with this process stays shared, and none of them takes leave of it.
imports_done()
