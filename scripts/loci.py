#!/usr/bin/env python3
"""See ``loci.py --help``."""

import sys

from hlmm_dask.cli import loci_main

if __name__ == "__main__":
    sys.exit(loci_main())
