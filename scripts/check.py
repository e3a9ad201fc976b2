#!/usr/bin/env python3
"""See ``check.py --help``."""

import sys

from hlmm_dask.cli_followup import check_main

if __name__ == "__main__":
    sys.exit(check_main())
