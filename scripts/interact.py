#!/usr/bin/env python3
"""See ``interact.py --help``."""

import sys

from hlmm_dask.cli_followup import interact_main

if __name__ == "__main__":
    sys.exit(interact_main())
