#!/usr/bin/env python3
"""See ``interact.py --help``."""

import sys

from hlmm_dask.program import interact

if __name__ == "__main__":
    sys.exit(interact())
