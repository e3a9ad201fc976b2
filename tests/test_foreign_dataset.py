"""Genotypes and tables as users have them in Python: other types, dimensions, DataFrames."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client
from studies import Study, make_study

import hlmm_dask
from hlmm_dask import InputError, fit_null, open_bed
from hlmm_dask.genotypes.foreign_dataset import canonical, clipped, samples_of, variants_of

NAMES = ("variant_id", "variant_contig", "variant_allele", "sample_id", "sample_family_id")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("foreign"), n=120, m=20)


@pytest.fixture
def dataset(data: Study) -> xr.Dataset:
    return open_bed(data.bed).load()


def retyped(dataset: xr.Dataset, kind: object) -> xr.Dataset:
    out = dataset.copy()
    for name in NAMES:
        values = dataset[name].to_numpy().astype(str)
        out[name] = (dataset[name].dims, values.astype(kind))  # type: ignore[call-overload]
    return out


def bytes_as_objects(dataset: xr.Dataset) -> xr.Dataset:
    out = dataset.copy()
    for name in NAMES:
        flat = [text.encode() for text in dataset[name].to_numpy().ravel()]
        values = np.array(flat, dtype=object).reshape(dataset[name].shape)
        out[name] = (dataset[name].dims, values)
    return out


def one_dimension(dataset: xr.Dataset) -> xr.Dataset:
    pairs = [",".join(pair) for pair in dataset["variant_allele"].to_numpy().tolist()]
    return dataset.drop_vars("variant_allele").assign(variant_allele=("variants", pairs))


def exchanged(dataset: xr.Dataset) -> xr.Dataset:
    """Samples are called variants, and the other way round."""
    aside = dataset.rename(variants="a", samples="b")
    return aside.rename(a="samples", b="variants")


def padded(dataset: xr.Dataset) -> xr.Dataset:
    """As VCF Zarr has them where some variants have three alleles."""
    wide = np.column_stack([dataset["variant_allele"].to_numpy(), np.full(20, "", dtype=object)])
    return dataset.drop_vars("variant_allele").assign(variant_allele=(("variants", "al"), wide))


FORMS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "StringDType": lambda d: retyped(d, np.dtypes.StringDType()),
    "fixed width": lambda d: retyped(d, "U9"),
    "bytes": lambda d: retyped(d, "S9"),
    "objects": bytes_as_objects,
    "one dimension of alleles": one_dimension,
    "other names of dimensions": lambda d: d.rename(variants="snp", samples="iid", alleles="al"),
    "exchanged names": exchanged,
    "transposed": lambda d: d.transpose("alleles", "samples", "variants"),
    "indexed": lambda d: d.swap_dims(variants="variant_id", samples="sample_id"),
    "coordinates": lambda d: d.set_coords(NAMES).assign_coords(variants=np.arange(20) * 2),
    "positions as floats": lambda d: d.assign(variant_position=d.variant_position.astype(float)),
    "padded alleles": padded,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_whose_meaning_is_clear(data: Study, dataset: xr.Dataset, form: str) -> None:
    given = FORMS[form](dataset)
    found = canonical(given)
    pd.testing.assert_frame_equal(variants_of(found, 3, 9), variants_of(canonical(dataset), 3, 9))
    pd.testing.assert_frame_equal(samples_of(given), samples_of(dataset))
    assert found["call_dosage"].dims == ("variants", "samples")
    np.testing.assert_array_equal(found["call_dosage"], dataset["call_dosage"])


def test_a_scan_takes_them(data: Study, dataset: xr.Dataset, client: Client) -> None:
    null = fit_null(data.bed, data.pheno)
    expected = hlmm_dask.scan(data.bed, null, client=client)
    given = retyped(exchanged(dataset), np.dtypes.StringDType())
    found = hlmm_dask.scan(given, fit_null(given, data.pheno), client=client)
    xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())


def test_what_is_not_clear_is_one_line(dataset: xr.Dataset) -> None:
    slashes = one_dimension(dataset)
    slashes["variant_allele"] = slashes["variant_allele"].astype(object).str.replace(",", "/")
    alone = dataset.isel(alleles=[0])
    other = dataset.drop_vars("sample_family_id").rename(samples="people")
    other["sample_id"] = ("samples", np.arange(7))
    square = dataset.assign(variant_id=(("variants", "alleles"), np.ones((20, 2), dtype=int)))
    text = dataset.assign(call_dosage=dataset["call_dosage"].astype(str))
    for given, message in (
        (slashes, "variant_allele of 'rs0' is 'G/A', expected two alleles with a comma"),
        (alone, r"variant_allele has dimensions \(variants, alleles\), expected .* two alleles"),
        (other, r"call_dosage has dimensions \(variants, people\), expected those of variant_id"),
        (square, r"variant_id has dimensions \(variants, alleles\), expected one"),
        (text, "call_dosage is <U32 of dimensions"),
    ):
        with pytest.raises(InputError, match=message) as error:
            canonical(given)
        assert "\n" not in str(error.value)
    for name, value, message in (
        ("variant_id", None, r"variant_id: (None|nan|'None') at place 2, expected"),
        ("variant_position", np.nan, "'rs1' has position nan, expected a whole number"),
        ("variant_position", 1.5, "'rs1' has position 1.5"),
    ):
        changed = dataset.copy(deep=True)
        values = changed[name].to_numpy().astype(object if name == "variant_id" else float)
        values[1] = value
        changed[name] = ("variants", values)
        with pytest.raises(InputError, match=message):
            variants_of(canonical(changed), 0, 20)
    three = dataset.drop_vars("variant_allele")
    three["variant_allele"] = (("variants", "alleles"), np.array([["A", "C", "G"]] * 20))
    with pytest.raises(InputError, match="'rs5' has more than two alleles"):
        variants_of(canonical(three), 5, 6)
    twice = dataset.assign(sample_id=("samples", ["a"] * 120)).drop_vars("sample_family_id")
    with pytest.raises(InputError, match="sample 'a' comes twice in sample_id"):
        samples_of(twice)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dosages_off_by_rounding_are_clipped(dtype: type) -> None:
    block = np.array([[0.0, -1e-4, 2.0001, 2.0], [1.5, -1.0, np.nan, 0.3]], dtype=dtype)
    found = clipped(block, str)
    expected = np.array([[0.0, 0.0, 2.0, 2.0], [1.5, np.nan, np.nan, 0.3]])
    np.testing.assert_array_equal(found, expected.astype(dtype))
    for bad in (2.001, -0.0002, np.inf, -np.inf, 3.0, -9.0):
        block[1, 2] = bad
        with pytest.raises(InputError, match=rf"variant 'v1': a dosage of {bad:g}, expected 0 to"):
            clipped(block, lambda row: f"v{row}")


def test_a_scan_clips_dosages_and_names_what_it_refuses(
    data: Study, dataset: xr.Dataset, client: Client
) -> None:
    null = fit_null(data.bed, data.pheno)
    expected = hlmm_dask.scan(dataset, null, client=client, block_size=6)
    values = dataset["call_dosage"].to_numpy()
    near = dataset.assign(
        call_dosage=(("variants", "samples"), values + np.float32(9e-5) * (values == 2.0))
    )
    found = hlmm_dask.scan(near, null, client=client, block_size=6)
    xr.testing.assert_identical(found, expected)
    far = near.copy(deep=True)
    far["call_dosage"][13, 4] = 2.5
    with pytest.raises(InputError, match=r"variant 'rs13': a dosage of 2.5, expected 0 to 2"):
        hlmm_dask.scan(far, null, client=client, block_size=6)


# Tables


def forms_of_a_table(data: Study) -> dict[str, object]:
    ids = data.samples
    trait = pd.DataFrame({"y": data.y, "other": "text"})
    return {
        "columns": pd.DataFrame({"IID": ids.iid, "y": data.y, "FID": ids.fid}),
        "columns of PLINK 2": pd.DataFrame({"#FID": ids.fid, "IID": ids.iid}).join(trait),
        "IID alone": pd.DataFrame({"#IID": ids.iid}).join(trait),
        "index": trait.set_index(pd.MultiIndex.from_frame(ids)),
        "index, other order": trait.set_index(
            pd.MultiIndex.from_arrays([ids.iid, ids.fid], names=["IID", "FID"])
        ),
        "index of IIDs": trait.set_index(pd.Index(ids.iid, name=None)),
        "series": pd.Series(data.y, index=pd.Index(ids.iid), name="y"),
        "series, both IDs": pd.Series(data.y, index=pd.MultiIndex.from_frame(ids), name="y"),
        "nullable": pd.DataFrame({"IID": ids.iid.astype("string"),
                                  "y": pd.array(data.y, dtype="Float64")}),
        "text": pd.DataFrame({"IID": ids.iid, "y": [repr(float(value)) for value in data.y]}),
        "categories": pd.DataFrame({"IID": ids.iid, "y": pd.Categorical(data.y)}),
    }  # fmt: skip


def test_tables_in_memory(data: Study) -> None:
    expected = fit_null(data.bed, data.pheno, mean_covariates=data.covar)
    covariates = pd.DataFrame(data.covariates, columns=["sex", "age"], index=data.samples.iid)
    rng = np.random.default_rng(0)
    for given in forms_of_a_table(data).values():
        shuffled = given.iloc[rng.permutation(120)]  # type: ignore[attr-defined]
        found = fit_null(data.bed, shuffled, mean_covariates=covariates)
        assert (found.phenotype_name, found.n_samples) == ("y", 120)
        assert found.loglik == pytest.approx(expected.loglik, rel=1e-12)
        np.testing.assert_allclose(
            found.mean_effects.effects, expected.mean_effects.effects, rtol=1e-9
        )


def test_missing_values_of_a_table_in_memory(data: Study) -> None:
    y = data.y.copy()
    y[:3] = np.nan, -9.0, 77.0
    given = pd.Series(y, index=data.samples.iid)
    assert fit_null(data.bed, given, missing="77").n_samples == 117
    text = given.astype(str).replace({"77.0": "x", "-9.0": "NA"})
    assert fit_null(data.bed, text, missing="x").n_samples == 117
    assert fit_null(data.bed, given, missing="77", no_minus9=True).n_samples == 118


def test_tables_in_memory_that_can_not_be_used(data: Study, tmp_path: Path) -> None:
    iid = data.samples.iid
    for given, message in (
        (pd.Series(data.y), "no column or index with the people's IDs"),
        (data.y, "a table is given as ndarray, expected a path, or a DataFrame"),
        (pd.DataFrame({"FID": iid, "y": data.y}), "no column or index with the people's IDs"),
        (pd.DataFrame({"IID": iid, "y": "tall"}), "column 'y': 'tall' is not a number"),
        (pd.DataFrame({"IID": iid, "y": pd.Timestamp("2020-02-03")}), "'2020-02-03 .* not a num"),
        (pd.DataFrame({"IID": iid, "y": 1j}), "'1j' is not a number"),
        (pd.DataFrame({"IID": iid, "y": np.inf}), "column 'y': inf of 'i0', expected a finite"),
        (pd.DataFrame({"IID": ["a"] * 120, "y": 1.0}), "IID 'a' is also on line 1"),
        (pd.DataFrame({"IID": np.arange(120.0), "y": 1.0}), "IID: 0.0 at place 1, expected text"),
        (pd.DataFrame({"IID": iid}), "no column besides the IDs"),
        (pd.DataFrame({"IID": [], "y": []}), "no rows"),
    ):
        with pytest.raises(InputError, match=message):
            fit_null(data.bed, given)  # type: ignore[arg-type]
    two = pd.DataFrame({"IID": iid, "a": data.y, "b": data.y})
    with pytest.raises(InputError, match="'a,b' chooses 2 columns, expected one of 'a', 'b'"):
        fit_null(data.bed, two, phenotype_column="a,b")
