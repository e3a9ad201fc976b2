import gzip
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hlmm_dask import bgzf, export
from hlmm_dask.errors import InputError, StoreError
from hlmm_dask.export import (
    TextTable,
    check_appendable,
    read_models_table,
    table_headers,
    write_parquet,
    write_tables,
    write_tsv,
)
from hlmm_dask.schema import CLASS_DOC, INDEX, N_COLUMNS, RESULT_COLUMNS, TSV_HEADERS, Status
from hlmm_dask.store import ResultsStore

N, SIZE = 41, 4
# Doubles whose text is easily wrong: halfway cases, subnormal, huge, integers beyond 2**53.
HARD = [
    0.1, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e23, 9007199254740993.0,
    -0.0, 1e16, 123456789012345680.0, 1e-5, 308.25, 4321.123456789, 1e6, 1e7,
]  # fmt: skip


def variants(n=N):
    ids = [f"rs{i}" for i in range(n)]
    ids[5:10] = ["NA", "NaN", 'q"uote', "007", "sn\u00f6p#1"]
    return pd.DataFrame(
        {
            "contig": ["01"] * (n // 2) + ["X"] * (n - n // 2),
            "variant_id": ids,
            "position": np.arange(n) * 10 - 5,
            "allele1": ["A"] * n,
            "allele2": ["G" * (i % 3 + 1) for i in range(n)],
        }
    )


def results(n=N):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(n, N_COLUMNS)) * 10.0 ** rng.integers(-300, 300, size=(n, 1))
    values[: len(HARD), INDEX["add"]] = HARD
    values[:, INDEX["n_samples"]] = 100_000
    values[:, [INDEX[f"n_{name}"] for name in CLASS_DOC]] = (60_000, 30_000, 10_000)
    values[:, INDEX["h2"]] = np.nan
    values[:, INDEX["status"]] = 0
    values[7, INDEX["var_neg_log10_p"]] = 1234.5
    for row, status in enumerate(Status):
        values[row + 20, INDEX["status"]] = status
    values[36, 1:-1] = np.nan
    values[36, INDEX["status"]] = Status.MISSING
    return values


def make(path, *, values=None, count_a2=False, **options):
    store = ResultsStore.create(
        path,
        n_variants=N,
        block_size=SIZE,
        variants=[variants()],
        fingerprint={},
        count_a2=count_a2,
        **options,
    )
    values = results() if values is None else values
    for block in store.blocks():
        store.write_block(block.index, values[block.start : block.stop], record={})
    return store


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(export, "BATCH_VARIANTS", 8)


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "out.zarr")


def lines(path):
    return gzip.decompress(path.read_bytes()).decode().split("\n")


def test_table_reads_back_to_the_same_doubles(tmp_path, store):
    path = tmp_path / "out.models.gz"
    assert write_tsv(store, path) == N
    table, values = read_models_table(path), results()
    assert tuple(table.columns) == TSV_HEADERS
    for column in (column for column in RESULT_COLUMNS if column.name != "status"):
        np.testing.assert_array_equal(table[column.header], values[:, INDEX[column.name]])
    assert np.signbit(table["add"][7])
    assert table["n"].dtype == np.int64
    assert table["SNP"].tolist() == variants()["variant_id"].tolist()
    assert table["chrom"].tolist() == variants()["contig"].tolist()
    assert table["pos"].tolist() == variants()["position"].tolist()
    assert table["status"].tolist()[20 : 20 + len(Status)] == [status.label for status in Status]
    assert sorted(os.listdir(tmp_path)) == ["out.models.gz", "out.zarr"]


def test_text_is_plain(tmp_path, store):
    write_tsv(store, tmp_path / "t.gz")
    text = lines(tmp_path / "t.gz")
    assert text[0] == "\t".join(TSV_HEADERS)
    assert len(text) == N + 2
    assert text[-1] == ""
    assert {line.count("\t") for line in text[:-1]} == {len(TSV_HEADERS) - 1}
    row = dict(zip(TSV_HEADERS, text[37].split("\t"), strict=True))
    assert (row["n"], row["pos"], row["add"], row["status"]) == ("100000", "355", "NaN", "missing")
    assert row["effect_allele"] == "A"
    assert text[8].split("\t")[0] == '"q""uote"'
    read = pd.read_csv(tmp_path / "t.gz", sep="\t", keep_default_na=False)
    assert read["SNP"].tolist() == variants()["variant_id"].tolist()
    assert dict(zip(TSV_HEADERS, text[8].split("\t"), strict=True))["var_pval"] == "1234.5"
    assert "nan" not in "\n".join(text)


def test_gunzip_and_pandas_read_it_and_the_bytes_are_reproducible(tmp_path, store):
    for name in ("a.gz", "b.gz"):
        write_tsv(store, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    subprocess.run(["gzip", "-t", tmp_path / "a.gz"], check=True)
    assert len(pd.read_csv(tmp_path / "a.gz", sep="\t")) == N


def test_effect_allele_follows_the_counted_allele(tmp_path):
    store = make(tmp_path / "out.zarr", count_a2=True)
    write_tsv(store, tmp_path / "t.gz")
    table = read_models_table(tmp_path / "t.gz")
    assert table["effect_allele"].tolist() == variants()["allele2"].tolist()
    assert table["other_allele"].tolist() == variants()["allele1"].tolist()


def test_extra_columns_come_last_under_their_headers(tmp_path, store):
    extra = {"dispersion": np.arange(N) / 7, "dispersion_neg_log10_p": np.full(N, np.nan)}
    write_tsv(store, tmp_path / "t.gz", extra=extra)
    table = read_models_table(tmp_path / "t.gz")
    assert tuple(table.columns) == (*TSV_HEADERS, "dispersion", "dispersion_pval")
    np.testing.assert_array_equal(table["dispersion"], extra["dispersion"])
    with pytest.raises(InputError, match="has 3 values, expected 41"):
        write_tsv(store, tmp_path / "t.gz", extra={"dispersion": np.zeros(3)})
    assert len(read_models_table(tmp_path / "t.gz")) == N


@pytest.mark.parametrize("write", [write_tsv, write_parquet])
@pytest.mark.parametrize("damage", ["marker", "chunk", "bit"])
def test_missing_or_damaged_block_refuses_and_keeps_the_old_table(tmp_path, store, write, damage):
    target = tmp_path / "table"
    write(store, target)
    before = target.read_bytes()
    chunk = store.path / "results" / "c.7.0"
    if damage == "marker":
        (store.run_dir / "blocks" / "0000007.json").unlink()
    elif damage == "chunk":
        chunk.unlink()
    else:
        content = bytearray(chunk.read_bytes())
        content[100] ^= 1
        chunk.write_bytes(content)
    message = (
        "1 of 11 blocks are missing" if damage == "marker" else "block 7 is missing or damaged"
    )
    with pytest.raises(StoreError, match=message):
        write(store, target)
    assert target.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "table"]


def test_append_adds_rows_without_a_second_header(tmp_path, store):
    path = tmp_path / "t.gz"
    write_tsv(store, path, append=True)
    write_tsv(store, path, append=True)
    table = read_models_table(path)
    once = table[:N]
    assert len(table) == 2 * N
    pd.testing.assert_frame_equal(table[N:].reset_index(drop=True), once)
    assert len(pd.read_csv(path, sep="\t")) == 2 * N
    subprocess.run(["gzip", "-t", path], check=True)


def test_append_keeps_blocks_and_compresses_another_gzip_anew(tmp_path, store):
    path = tmp_path / "t.gz"
    write_tsv(store, path)
    once = path.read_bytes()
    write_tsv(store, path, append=True)
    twice = path.read_bytes()
    assert twice.startswith(once.removesuffix(bgzf.END))
    assert twice.count(bgzf.END) == 1
    assert twice.endswith(bgzf.END)
    path.write_bytes(gzip.compress(gzip.decompress(once)))
    write_tsv(store, path, append=True)
    assert gzip.decompress(path.read_bytes()) == gzip.decompress(twice)
    with path.open("rb") as file:
        assert list(bgzf.blocks(file))[-1] == bgzf.END


@pytest.mark.parametrize("lost", [28, 40])
def test_append_to_a_cut_table_is_refused(tmp_path, store, lost):
    path = tmp_path / "t.gz"
    write_tsv(store, path)
    os.truncate(path, path.stat().st_size - lost)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a whole"):
        write_tsv(store, path, append=True)
    with pytest.raises(InputError, match="not a whole"):
        read_models_table(path)
    assert path.read_bytes() == before


def test_two_who_append_at_once_wait_for_each_other(tmp_path, store, monkeypatch):
    path = tmp_path / "t.gz"
    copy = export._copy_table

    def slowly(old, file):
        copy(old, file)
        time.sleep(0.2)

    monkeypatch.setattr(export, "_copy_table", slowly)
    write_tsv(store, path)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: write_tsv(store, path, append=True), range(3))) == [N] * 3
    assert len(read_models_table(path)) == 4 * N
    assert sorted(os.listdir(tmp_path)) == ["out.zarr", "t.gz"]


@pytest.mark.parametrize("blocked", [True, False])
def test_a_cut_table_is_refused_before_the_work(tmp_path, store, blocked):
    path = tmp_path / "t.gz"
    write_tsv(store, path)
    if not blocked:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())))
    check_appendable(path, table_headers(store))
    os.truncate(path, path.stat().st_size - 40)
    with pytest.raises(InputError, match=r"t\.gz: not a whole .* write or copy it again"):
        check_appendable(path, table_headers(store))


def test_a_new_table_removes_the_index_of_the_old(tmp_path, store):
    (tmp_path / "t.gz.tbi").touch()
    write_tsv(store, tmp_path / "t.gz")
    assert not (tmp_path / "t.gz.tbi").exists()


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path, store):
    for threads in (1, 2, 5):
        write_tsv(store, tmp_path / f"{threads}.gz", threads=threads)
    tables = [(tmp_path / f"{threads}.gz").read_bytes() for threads in (1, 2, 5)]
    assert tables[0] == tables[1] == tables[2]
    assert len(read_models_table(tmp_path / "1.gz")) == N


def test_several_tables_are_as_if_written_one_by_one(tmp_path, store):
    other = make(tmp_path / "other.zarr", values=results()[::-1], count_a2=True)
    extra = {"dispersion": np.arange(N) / 3}
    tables = [
        TextTable(store, tmp_path / "1.gz", {}),
        TextTable(other, tmp_path / "2.gz", extra),
        TextTable(store, tmp_path / "3.gz", extra),
    ]
    assert list(write_tables(tables)) == [(table, N) for table in tables]
    for table in tables:
        write_tsv(table.store, tmp_path / "alone.gz", extra=table.extra)
        assert table.path.read_bytes() == (tmp_path / "alone.gz").read_bytes()


def test_append_to_another_table_is_refused(tmp_path, store):
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"SNP\tn\nrs1\t5\n"))
    with pytest.raises(InputError, match="line 1 has the columns SNP n,"):
        write_tsv(store, path, append=True)
    assert gzip.decompress(path.read_bytes()) == b"SNP\tn\nrs1\t5\n"
    path.write_bytes(b"\x1f\x8b\x08broken")
    with pytest.raises(InputError, match="can't be read"):
        write_tsv(store, path, append=True)


def test_append_compresses_a_plain_table(tmp_path, store):
    path = tmp_path / "t.gz"
    write_tsv(store, path)
    path.write_bytes(gzip.decompress(path.read_bytes()))
    write_tsv(store, path, append=True)
    assert len(read_models_table(path)) == 2 * N
    subprocess.run(["gzip", "-t", path], check=True)


def test_hlmm_s_own_uncompressed_table_is_read(tmp_path):
    path = tmp_path / "old.models.gz"
    header = "\t".join(TSV_HEADERS[:13])
    path.write_text(
        f"{header}\n007\t1410\t0.25\t-1.5\t" + "\t".join(["0.1"] * 9) + "\n"
        "NA\t1400\tNaN\tNaN\t" + "\t".join(["NaN"] * 9) + "\n"
    )
    table = read_models_table(path)
    assert table["SNP"].tolist() == ["007", "NA"]
    assert table["n"].tolist() == [1410, 1400]
    assert table["av_pval"].isna().tolist() == [False, True]


@pytest.mark.parametrize("content", [b"", b"a b c\n", b"SNP\tadd\nrs1\tx\n", b"SNP\tadd\nrs1\n"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "t.gz"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_models_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_table_is_refused(tmp_path, store):
    path = tmp_path / "t.gz"
    write_tsv(store, path)
    os.truncate(path, path.stat().st_size - 200)
    with pytest.raises(InputError, match="not a whole"):
        read_models_table(path)


def test_parquet_has_the_same_columns_with_types(tmp_path, store):
    assert write_parquet(store, tmp_path / "t.parquet", extra={"dispersion": np.ones(N)}) == N
    write_tsv(store, tmp_path / "t.gz", extra={"dispersion": np.ones(N)})
    table = pq.read_table(tmp_path / "t.parquet")
    text = read_models_table(tmp_path / "t.gz")
    assert table.column_names == list(text.columns)
    assert table.schema.field("n").type == pa.int64()
    assert pa.types.is_dictionary(table.schema.field("status").type)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 6
    frame = table.to_pandas()
    frame["status"] = frame["status"].astype(text["status"].dtype)
    pd.testing.assert_frame_equal(frame, text, check_dtype=False, check_exact=True)


def test_other_models_keep_their_own_names(tmp_path):
    values = np.random.default_rng(3).normal(size=(N, 2))
    store = make(tmp_path / "out.zarr", values=values, columns=("beta", "p_wald"))
    write_tsv(store, tmp_path / "t.gz")
    table = read_models_table(tmp_path / "t.gz")
    assert " ".join(table.columns) == "SNP chrom pos effect_allele other_allele beta p_wald"
    np.testing.assert_array_equal(table["p_wald"], values[:, 1])
