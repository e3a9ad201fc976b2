"""The null model in a store: the same to the last bit, no code, and gone at the end."""

import json
import os
import pickle
import stat
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import Study, make_study

from hlmm_dask.errors import StoreError
from hlmm_dask.kernels.lmm import fit_null as fit_lmm_null
from hlmm_dask.kernels.lmm_block import taken_apart
from hlmm_dask.kernels.lmm_fixed import plan_fixed
from hlmm_dask.kernels.packed import PackedLayout
from hlmm_dask.kernels.table import Filters
from hlmm_dask.models.lmm_rotation import rotation_of_kinship
from hlmm_dask.scanning.config import ScanConfig
from hlmm_dask.scanning.dispatch import scan_model
from hlmm_dask.scanning.null_input import fit_null
from hlmm_dask.scanning.published import (
    MODEL_FILE,
    PublishedModel,
    kept_digest,
    load_model,
    publish_model,
    published_model,
    remove_model,
)
from hlmm_dask.scanning.source import open_source
from hlmm_dask.scanning.stored_lmm import StoredLMM, StoredPlan, StoredPlans
from hlmm_dask.store import ResultsStore

Run = Callable[..., int]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make_study(tmp_path_factory.mktemp("published"), n=60, m=24)
    # Two chromosomes for relationships, which leave out X.
    bim = study.bed.with_suffix(".bim")
    bim.write_text(bim.read_text().replace("X\t", "2\t"))
    return study


@pytest.fixture
def store(tmp_path: Path, study: Study) -> ResultsStore:
    return ResultsStore.create(
        tmp_path / "s.zarr", n_variants=24, block_size=10, variants=[study.variants], fingerprint={}
    )


def hlmm_model(study: Study, config: ScanConfig, **options: Any) -> PublishedModel:
    null = fit_null(study.bed, study.pheno, **options)
    return scan_model(null, config, open_source(study.bed, config))


def lmm_model() -> StoredLMM:
    rng = np.random.default_rng(1)
    K = np.cov(rng.normal(size=(12, 40)))
    null = fit_lmm_null(rotation_of_kinship(K), rng.normal(size=12), np.ones((12, 1)))
    part, _ = taken_apart(plan_fixed(null))
    one = np.zeros(1, dtype=np.int64)
    layout = PackedLayout(12, np.arange(12))
    plan = StoredPlan(part, "lmm-0123456789abcdef.npy", "00" * 32)
    return StoredLMM(layout, Filters(), np.ones(1), one, one, (plan,))


def same(a: Any, b: Any) -> None:
    """Equal to the bit, in types and in the order in memory."""
    assert type(a) is type(b)
    if is_dataclass(a):
        for each in fields(a):
            if each.compare:
                same(getattr(a, each.name), getattr(b, each.name))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes("A") == b.tobytes("A")
        assert a.flags.f_contiguous == b.flags.f_contiguous or not a.flags.contiguous
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.parametrize("kind", ["hlm", "covariates", "hlmm", "linear", "loco", "lmm"])
def test_a_model_comes_back_to_the_bit(kind: str, study: Study, store: ResultsStore) -> None:
    random = {"random_genotypes": study.bed}
    match kind:
        case "lmm":
            model: PublishedModel = lmm_model()
        case "hlm":
            model = hlmm_model(study, ScanConfig())
        case "covariates":
            given = {"mean_covariates": study.covar, "variance_covariates": study.covar}
            model = hlmm_model(study, ScanConfig(), fit_covariates=True, **given)
        case "loco":
            model = hlmm_model(study, ScanConfig(loco=True), **random)
        case _:
            method = "exact" if kind == "hlmm" else kind
            model = hlmm_model(study, ScanConfig(method=method), **random)
    task = publish_model(store, model)
    again = load_model(store)
    same(model, again)
    assert published_model(store) == task
    assert publish_model(store, again) == task
    if kind in ("hlmm", "linear"):
        # Held once, however often the model refers to it.
        assert again.dense.design is again.with_gram.design


def rewrite(store: ResultsStore, change: Callable[[Any], None], tail: bytes = b"") -> None:
    """Change the text of a published model, with a digest that fits."""
    import hashlib

    path = store.run_dir / MODEL_FILE
    content = path.read_bytes()[32:]
    length = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + length])
    change(about)
    text = json.dumps(about).encode()
    content = len(text).to_bytes(8, "little") + text + content[8 + length :] + tail
    path.write_bytes(hashlib.sha256(content).digest() + content)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.clear(),
        lambda about: about["objects"][0].__setitem__(0, "Popen"),
        lambda about: about["objects"][0][1].popitem(),
        lambda about: about["objects"].reverse(),
        lambda about: about["arrays"][0].__setitem__(0, "|O"),
        lambda about: about["arrays"][0].__setitem__(1, [1 << 60]),
        lambda about: about["arrays"][0].__setitem__(1, [-1]),
        lambda about: about["arrays"].pop(),
        lambda about: about.__setitem__("objects", 3),
        lambda about: about.__setitem__("arrays", [None]),
    ],
)
def test_what_is_no_model_is_refused_in_a_line(
    change: Callable[[Any], None], study: Study, store: ResultsStore
) -> None:
    publish_model(store, hlmm_model(study, ScanConfig()))
    rewrite(store, change)
    with pytest.raises(StoreError, match=r"null_model\.bin: not a null model") as caught:
        load_model(store)
    assert "\n" not in str(caught.value)


class _Bad:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_a_pickle_is_not_run(
    study: Study, store: ResultsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    monkeypatch.chdir(tmp_path)
    bad = pickle.dumps(_Bad())
    for content in (bad, len(bad).to_bytes(8, "little") + bad):
        (store.run_dir / MODEL_FILE).write_bytes(hashlib.sha256(content).digest() + content)
        with pytest.raises(StoreError, match="not a null model"):
            load_model(store)
    assert not Path("ran").exists()


def test_arrays_lie_in_the_folder_of_the_run(tmp_path: Path) -> None:
    """A name with a folder in it is refused."""
    np.save(tmp_path / "x.npy", np.zeros(2))
    plan = lmm_model().stored[0]
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="not an array of this run"):
        StoredPlans((replace(plan, file="../x.npy"),), tmp_path / "run")[0]


def test_what_is_not_known_is_not_published(store: ResultsStore) -> None:
    for part in ([1], np.zeros(1, dtype=object), np.zeros(1, dtype=complex)):
        model = replace(lmm_model(), sets=part)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="can't be published"):
            publish_model(store, model)
    assert published_model(store) is None


def test_who_may_read(study: Study, store: ResultsStore) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    task = publish_model(store, hlmm_model(study, ScanConfig()))
    assert mode(store.run_dir) == 0o700
    assert mode(store.run_dir / MODEL_FILE) == 0o600
    remove_model(store)
    assert not (store.run_dir / MODEL_FILE).exists()
    assert kept_digest(store) == task.model_digest
    assert published_model(store) is None
    for block in store.blocks():
        store.write_block(
            block.index, np.zeros((block.stop - block.start, len(store.columns))), record={}
        )
    store.finish({})
    assert mode(store.run_dir) == mode(store.path)


@pytest.mark.parametrize("model", ["hlmm", "lmm"])
def test_a_finished_scan_holds_no_values_of_people(
    model: str, study: Study, tmp_path: Path, run_script: Run
) -> None:
    """Phenotype, covariates and genotypes go; a damaged block is fitted again all the same."""
    out = tmp_path / "out"
    options: list[Any] = [study.bed, study.pheno, out, "--block-size", 10]
    if model == "lmm":
        options += ["--model", "lmm", "--grm-from", study.bed, "--loco"]
    else:
        options += ["--random_gts", study.bed, "--mean_covar", study.covar, "--loco"]
    assert run_script("scan", *options) == 0
    store = ResultsStore.open(tmp_path / "out.zarr")
    table = (tmp_path / "out.models.gz").read_bytes()
    found = {p.name for p in store.run_dir.iterdir()}
    record = "lmm_null.json" if model == "lmm" else "left_out_null.json"
    kept = {"blocks", "finished.json", "manifest.json", "outputs.json", "lock.json.guard"}
    assert found == kept | {"null_model.json", record}
    nulls = sorted(p for p in tmp_path.glob("out.null_*"))
    before = [p.read_bytes() for p in nulls]
    for damage in (store.path / "results" / "c.1.0", store.run_dir / record):
        damage.write_bytes(damage.read_bytes()[:-9])
        assert run_script("scan", *options, "--resume") == 0
        assert (tmp_path / "out.models.gz").read_bytes() == table
        assert [p.read_bytes() for p in nulls] == before
        assert {p.name for p in store.run_dir.iterdir()} == found
