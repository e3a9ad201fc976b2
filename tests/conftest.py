"""Fixtures that several test modules use."""

import os
from pathlib import Path

import pytest

# Small problems: BLAS threads would only wait for each other. Set before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data, which lies outside the repository."""
    named = os.environ.get("HLMM_DASK_REFERENCE")
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "reference"
    folder = Path(named) if named else beside
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set HLMM_DASK_REFERENCE)")
    return folder
