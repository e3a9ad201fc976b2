#!/usr/bin/env python3
"""See ``munge.py --help``."""

import sys

from hlmm_dask.program import munge

if __name__ == "__main__":
    sys.exit(munge())
