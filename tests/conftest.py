import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference inputs and numbers, beside the checkout or named by a variable."""
    named = os.environ.get("HLMM_DASK_REFERENCE")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set HLMM_DASK_REFERENCE)")
    return folder
