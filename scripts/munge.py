#!/usr/bin/env python3
"""See ``munge.py --help``."""

import sys

from hlmm_dask.cli import munge_main

if __name__ == "__main__":
    sys.exit(munge_main())
