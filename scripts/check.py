#!/usr/bin/env python3
"""See ``check.py --help``."""

import sys

from hlmm_dask.program import check

if __name__ == "__main__":
    sys.exit(check())
