#!/usr/bin/env python3
"""See ``hlmm_chr.py --help``."""

import sys

from hlmm_dask.cli import hlmm_chr_main

if __name__ == "__main__":
    sys.exit(hlmm_chr_main())
