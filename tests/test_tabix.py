import re
import sys

import numpy as np
import pandas as pd
import pytest

from hlmm_dask import tabix
from hlmm_dask.errors import InputError
from hlmm_dask.export import read_models_table, write_tsv
from hlmm_dask.schema import N_COLUMNS, RESULT_NAMES
from hlmm_dask.store import ResultsStore
from hlmm_dask.tabix import require_pysam, write_index

N, SIZE = 3_000, 700


def make(path, *, contigs=None, positions=None, columns=RESULT_NAMES):
    half = N // 2
    ids = [f"rs{i}" for i in range(N)]
    ids[0] = "SNP"
    table = pd.DataFrame(
        {
            "contig": ["1"] * half + ["X"] * (N - half) if contigs is None else contigs,
            "variant_id": ids,
            "position": np.tile(np.arange(half) // 2 * 1000 + 1, 2)
            if positions is None
            else positions,
            "allele1": "A",
            "allele2": "G",
        }
    )
    store = ResultsStore.create(
        path, n_variants=N, block_size=SIZE, variants=[table], fingerprint={}, columns=columns
    )
    values = np.random.default_rng(4).normal(size=(N, len(columns)))
    if len(columns) == N_COLUMNS:
        whole = [i for i, name in enumerate(columns) if name.startswith("n_") or name == "status"]
        values[:, whole] = 0
    for block in store.blocks():
        store.write_block(block.index, values[block.start : block.stop], record={})
    return store


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(tabix, "_BATCH_VARIANTS", 512)


@pytest.mark.parametrize("columns", [RESULT_NAMES, ("beta", "p_wald")])
def test_a_region_holds_the_rows_at_its_positions(tmp_path, columns):
    pysam = pytest.importorskip("pysam")
    store = make(tmp_path / "s.zarr", columns=columns)
    path = tmp_path / "t.models.gz"
    write_tsv(store, path)
    before = path.read_bytes()
    assert write_index(store, path) is None
    assert path.read_bytes() == before
    frame = read_models_table(path)
    lines = frame["SNP"] + frame["chrom"] + frame["pos"].astype(str)
    with pysam.TabixFile(str(path)) as file:
        assert file.contigs == ["1", "X"]
        for contig, start, stop in (("1", 0, 1), ("1", 5_001, 400_001), ("X", 0, 10**7)):
            rows = [line.split("\t") for line in file.fetch(contig, start, stop)]
            names = dict.fromkeys(frame.columns)
            at = [list(names).index(name) for name in ("SNP", "chrom", "pos")]
            found = ["".join(row[i] for i in at) for row in rows]
            inside = (frame["chrom"] == contig) & (frame["pos"] > start) & (frame["pos"] <= stop)
            assert inside.any()
            assert found == lines[inside].tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "s.zarr", "t.models.gz", "t.models.gz.tbi",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("contigs", "positions", "message"),
    [
        (None, np.arange(N)[::-1] + 1, "variant 2 is at '1':2999, before the one above"),
        (None, np.arange(N), r"variant 1 is at '1':0, expected 1 to"),
        (None, np.arange(N) - 600, r"variant 1 is at '1':-600, expected 1 to"),
        (None, np.arange(N) + 2**29 - 100, "variant 102 is at '1':536870913, expected"),
        (
            ["1"] * 1000 + ["2"] * 1000 + ["1"] * 1000,
            np.arange(N) + 1,
            "variant 2001 goes back to chrom",
        ),
        (["1"] * N, None, "variant 1501 is at '1':1, before"),
    ],
)
def test_another_order_has_no_index_and_says_so(tmp_path, contigs, positions, message):
    pytest.importorskip("pysam")
    store = make(tmp_path / "s.zarr", contigs=contigs, positions=positions)
    write_tsv(store, tmp_path / "t.gz")
    note = write_index(store, tmp_path / "t.gz")
    assert note is not None
    assert note.startswith("no index for tabix: ")
    assert "\n" not in note
    assert re.search(message, note)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr", "t.gz"]


def test_without_pysam_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(InputError, match=r"pip install 'hlmm-dask\[tabix\]'"):
        require_pysam()
