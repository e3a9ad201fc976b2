#!/usr/bin/env python3
"""See ``loci.py --help``."""

import sys

from hlmm_dask.program import loci

if __name__ == "__main__":
    sys.exit(loci())
