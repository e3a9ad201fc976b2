"""A results store that someone else made or changed: it runs no code and gives no traceback."""

import json
import os
import pickle
import random
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from isal import isal_zlib
from numcodecs.zstd import Zstd
from scans import columns_of, make_store, names_of
from studies import Study, make_study

from hlmm_dask import StoreError, open_results
from hlmm_dask.durable import checksum_of
from hlmm_dask.json_files import AT_LEAST_1, check_shape, parse
from hlmm_dask.layout import Layout, names_rows
from hlmm_dask.store import ResultsStore
from hlmm_dask.view.watch import Watcher

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("hostile")
    columns = columns_of(rng.normal(size=250), rng.normal(size=250), np.full(250, 0.3))
    return make_store(folder / "s.zarr", columns, names_of(250)).path


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "s.zarr"))


def refusals(folder: Path, run_script: Run, capsys: Capture) -> None:
    """Every reader refuses the store in one line that names a file of it."""
    out = folder.with_suffix("")
    commands: list[list[Any]] = [
        ["report", out], ["loci", out], ["munge", out, "--format", "regenie"],
        ["check", out, "--top", 1], ["interact", out, "--all", "--covar", "x:1"],
    ]  # fmt: skip
    for command in commands:
        assert run_script(*command) == 2, command
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert str(folder) in lines[0]
    with pytest.raises(StoreError, match=str(folder)):
        open_results(folder)
    progress = Watcher(folder).poll()
    assert progress.state == "stopped"
    assert str(folder) in progress.stopped_by


class _Bad:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (self.path,)


def trust(folder: Path) -> None:
    """Give the manifest checksums that fit, as one who makes such a store would."""
    path = folder / ".run" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["files"] = {
        str(p.relative_to(folder)): checksum_of(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".run" not in p.parts and p.parent.name != "results"
    }
    write_checked(path, manifest)


def write_checked(path: Path, content: dict[str, Any]) -> None:
    content.pop("crc32", None)
    crc = isal_zlib.crc32(json.dumps(content, sort_keys=True).encode())
    path.write_text(json.dumps(content | {"crc32": f"{crc:08x}"}))


def test_a_store_of_zarr_2_with_a_pickle_filter(
    folder: Path, tmp_path: Path, run_script: Run, capsys: Capture
) -> None:
    about = json.loads((folder / "zarr.json").read_text())["attributes"]
    for path in list(folder.iterdir()):
        if path.name != ".run":
            path.unlink() if path.is_file() else shutil.rmtree(path)
    (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (folder / ".zattrs").write_text(json.dumps(about))
    for name, shape in (("results", [250, 34]), ("variant_id", [250]), ("variant_contig", [250]),
                        ("variant_position", [250]), ("variant_allele", [250, 2])):  # fmt: skip
        (folder / name).mkdir()
        array = {
            "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "|O", "order": "C",
            "fill_value": None, "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
        }  # fmt: skip
        (folder / name / ".zarray").write_text(json.dumps(array))
        key = ".".join("0" for _ in shape)
        (folder / name / key).write_bytes(pickle.dumps(_Bad(tmp_path / "ran")))
    trust(folder)
    refusals(folder, run_script, capsys)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["results", "variant_id", "variant_contig"])
@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "numcodecs.pickle", "configuration": {}}, {"name": "zstd", "configuration": {}}],
        [{"name": "vlen-utf8"}, {"name": "zstd"}, {"name": "gzip"}],
        [{"name": "sharding_indexed", "configuration": {}}],
        [],
        3,
    ],
)
def test_other_codecs_are_refused(
    name: str, codecs: Any, folder: Path, run_script: Run, capsys: Capture
) -> None:
    path = folder / name / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"codecs": codecs}))
    trust(folder)
    refusals(folder, run_script, capsys)


def frame(size: int) -> bytes:
    """A chunk in the codec of this program that says that it holds so many bytes."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x01\x00\x00"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results/c.0.0", frame(1 << 50)),
        ("results/c.0.0", frame(1 << 33)),
        ("variant_id/c.0", frame(1 << 50)),
        ("variant_position/c.0", frame(1 << 33)),
        ("variant_id/c.0", Zstd().encode((1 << 31).to_bytes(4, "little") + b"ab")),
    ],
)
def test_chunks_that_say_that_they_are_huge(
    name: str, content: bytes, folder: Path, run_script: Run, capsys: Capture
) -> None:
    """Nothing of the size that they say is allocated."""
    (folder / name).write_bytes(content)
    trust(folder)
    variable = "add" if "results" in name else name.partition("/")[0]
    tracemalloc.start()
    with pytest.raises(StoreError, match="damaged"):
        open_results(folder)[variable].compute()
    assert run_script("report", folder.with_suffix("")) == 2
    assert tracemalloc.get_traced_memory()[1] < 1 << 29
    tracemalloc.stop()
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("n_variants", "block_size"), [(1 << 47, 1), (1 << 40, 100), (1 << 47, 1 << 46), (10**9, 10**9)]
)
def test_stores_that_say_that_they_are_huge(
    n_variants: int, block_size: int, folder: Path, run_script: Run, capsys: Capture
) -> None:
    path = folder / ".run" / "manifest.json"
    manifest = json.loads(path.read_text())
    write_checked(path, manifest | {"n_variants": n_variants, "block_size": block_size})
    rows = names_rows(Layout(n_variants, block_size, ()))
    for name in ("results", "variant_id", "variant_contig", "variant_position", "variant_allele"):
        about = json.loads((folder / name / "zarr.json").read_text())
        about["shape"][0] = n_variants
        size = block_size if name == "results" else rows
        about["chunk_grid"]["configuration"]["chunk_shape"][0] = size
        (folder / name / "zarr.json").write_text(json.dumps(about))
    trust(folder)
    refusals(folder, run_script, capsys)


@pytest.mark.parametrize("name", ["results/c.0.0", "variant_id/c.0", ".run/blocks/0000000.json",
                                  ".run/finished.json", "results/zarr.json"])  # fmt: skip
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_not_read(
    name: str, make: Callable[[Path], None], folder: Path, run_script: Run, capsys: Capture
) -> None:
    """Their reader would wait, or read on, without an end."""
    (folder / name).unlink()
    make(folder / name)
    # A block without a marker is not done; the report shows the others.
    assert run_script("report", folder.with_suffix("")) == (0 if "blocks" in name else 2)
    if "blocks" not in name:
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_markers_without_what_a_scan_keeps(study: Study, run_script: Run, capsys: Capture) -> None:
    """Others of the same run have it; what can't be compared is refused or fitted again."""
    options: list[Any] = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    table = study.out("out.models.gz").read_bytes()
    path = study.out("out.zarr") / ".run" / "blocks" / "0000001.json"
    whole = json.loads(path.read_text())
    for key in ("null_model", "n_fitted", "seconds", "worker", "genotypes_crc32"):
        for finished in (True, False):
            write_checked(path, {k: v for k, v in whole.items() if k != key})
            if not finished:
                (study.out("out.zarr") / ".run" / "finished.json").unlink()
            capsys.readouterr()
            code = run_script("scan", *options, "--resume")
            assert code == (2 if key == "genotypes_crc32" else 0), capsys.readouterr().err
            assert study.out("out.models.gz").read_bytes() == table


def test_a_manifest_of_another_layout_than_its_run(
    study: Study, run_script: Run, capsys: Capture
) -> None:
    options: list[Any] = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    path = study.out("out.zarr") / ".run" / "manifest.json"
    whole = json.loads(path.read_text())
    for part in ({"n_variants": 1 << 40}, {"columns": whole["columns"][:-1]}, {"block_size": 30}):
        write_checked(path, whole | part)
        capsys.readouterr()
        assert run_script("scan", *options, "--resume") == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "--overwrite" in line, line


def test_what_others_name_in_consolidated_metadata_is_not_read(folder: Path) -> None:
    path = folder / "zarr.json"
    about = json.loads(path.read_text())
    for array in about["consolidated_metadata"]["metadata"].values():
        array["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
    path.write_text(json.dumps(about))
    trust(folder)
    assert np.isfinite(open_results(folder)["add"].values).all()


@pytest.mark.parametrize("name", ["results", "variant_id", ".run", ".run/blocks", ".run/lock.json",
                                  ".run/lock.json.guard", ".run/finished.json"])  # fmt: skip
def test_links_are_not_followed(
    name: str, study: Study, tmp_path: Path, run_script: Run, capsys: Capture
) -> None:
    """Neither written through nor emptied: what they point to stays as it is."""
    out, other = study.out("out"), tmp_path / "other"
    options: list[Any] = [study.bed, study.pheno, out, "--block-size", 20]
    assert run_script("scan", *options) == 0
    place = study.out("out.zarr") / name
    if place.is_dir():
        shutil.move(place, other)
        place.symlink_to(other)
    else:
        other.write_text("kept")
        place.unlink(missing_ok=True)
        place.symlink_to(other)
    before = {p: p.read_bytes() for p in [other, *other.rglob("*")] if p.is_file()}
    capsys.readouterr()
    for command in (["scan", *options, "--resume"], ["report", out]):
        assert run_script(*command) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"{place}: is a symbolic link" in line
    assert run_script("scan", *options, "--overwrite") == 0
    assert {p: p.read_bytes() for p in [other, *other.rglob("*")] if p.is_file()} == before


def test_a_link_in_place_of_the_log(
    study: Study, tmp_path: Path, run_script: Run, capsys: Capture
) -> None:
    (tmp_path / "other").write_text("kept\n")
    study.out("out.log").symlink_to(tmp_path / "other")
    assert run_script("scan", study.bed, study.pheno, study.out("out")) == 0
    assert capsys.readouterr().err.count("out.log: is a symbolic link") == 1
    assert (tmp_path / "other").read_text() == "kept\n"
    assert study.out("out.models.gz").exists()


def test_a_store_may_be_linked(study: Study, tmp_path: Path, run_script: Run) -> None:
    """OUTPREFIX.zarr itself: what it points to is the store."""
    options: list[Any] = [study.bed, study.pheno, study.out("out"), "--block-size", 20]
    assert run_script("scan", *options) == 0
    shutil.move(study.out("out.zarr"), tmp_path / "elsewhere.zarr")
    study.out("out.zarr").symlink_to(tmp_path / "elsewhere.zarr")
    assert run_script("scan", *options, "--resume") == 0
    assert run_script("scan", *options, "--overwrite") == 0
    assert study.out("out.zarr").is_symlink()
    assert ResultsStore.open(tmp_path / "elsewhere.zarr").is_finished


@pytest.mark.parametrize("name", ["results/c.1.0", "variant_id/c.0", "variant_allele/c.0.0"])
@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"x" * 40, lambda b: b""])
def test_damage_found_when_values_are_computed(
    name: str, damage: Callable[[bytes], bytes], folder: Path
) -> None:
    """After the store was opened as whole."""
    dataset = open_results(folder)
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    variable = "add" if "results" in name else name.partition("/")[0]
    with pytest.raises(StoreError, match=r"damaged"):
        dataset[variable].compute()
    if "results" in name:
        assert np.isfinite(dataset["add"][:100].values).all()


def test_shapes() -> None:
    shape = {"n": AT_LEAST_1, "x?": (None, float), "names": [str], "any": {str: bool}}
    good: dict[str, Any] = {"n": 3, "names": ["a"], "any": {"b": True}, "more": [[]]}
    check_shape(good, shape)
    check_shape(good | {"x": 3}, shape)
    for part, said in (
        ({"n": 0}, "n is 0, expected a whole number from 1"),
        ({"n": True}, "n is True"),
        ({"n": 1.0}, "n is 1.0"),
        ({"n": 1 << 70}, "n is 1180591620717411303424"),
        ({"x": "3"}, "x is '3', expected null or a number"),
        ({"names": ["a", None]}, r"names\[1\] is None, expected a text"),
        ({"names": {}}, "names is dict, expected a list"),
        ({"any": {"c": 1}}, "any.c is 1, expected true or false"),
    ):
        with pytest.raises(ValueError, match=said):
            check_shape(good | part, shape)
    with pytest.raises(ValueError, match="it has no 'n'"):
        check_shape({}, shape)
    with pytest.raises(ValueError, match="nested too deep"):
        parse("[" * 200_000)


# -- any JSON of a store ---------------------------------------------------------------------

_DEEP = "DEEP"
_VALUES: list[Any] = [
    None, True, -1, 0, 3, 10**30, 1e308, float("nan"), "", "x", "../../x", [], [None], {},
    {"a": []}, _DEEP,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


def mutate(content: Any, rng: random.Random) -> str:
    """Replace or remove one value, chosen at random."""
    content = json.loads(json.dumps(content))
    path = rng.choice(list(places(content)))
    value = rng.choice(_VALUES)
    if not path:
        content = value
    else:
        inside = content
        for key in path[:-1]:
            inside = inside[key]
        if rng.random() < 0.2:
            del inside[path[-1]]
        else:
            inside[path[-1]] = value
    if isinstance(content, dict) and "crc32" in content and rng.random() < 0.8:
        content.pop("crc32")
        crc = isal_zlib.crc32(json.dumps(content, sort_keys=True).encode())
        content["crc32"] = f"{crc:08x}"
    return json.dumps(content).replace(f'"{_DEEP}"', "[" * 5000 + "]" * 5000)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("mutated"), n=80, m=30)


@pytest.mark.parametrize("seed", [0])
def test_no_json_gives_a_traceback(
    seed: int, scanned: Study, run_script: Run, capsys: Capture
) -> None:
    """Seeded: wrong types, missing keys, large numbers and deep nesting in every JSON file."""
    out = scanned.out("out")
    options: list[Any] = [scanned.bed, scanned.pheno, out, "--block-size", 10, "--loco"]
    options += ["--random_gts", scanned.bed, "--overwrite"]
    assert run_script("scan", *options) == 0
    options[-1] = "--resume"
    store, kept, record = scanned.out("out.zarr"), scanned.out("kept"), scanned.out("out.run.json")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(store, kept)
    (kept / "out.run.json").write_bytes(record.read_bytes())
    files = [p.relative_to(kept) for p in sorted(kept.rglob("*.json"))]
    assert len(files) >= 13
    rng = random.Random(seed)
    commands: list[list[Any]] = [
        ["report", out], ["loci", out, "--p", 0.01], ["scan", *options],
        ["munge", out, "--format", "regenie", "--overwrite"],
    ]  # fmt: skip
    for i, name in enumerate(files):
        for _ in range(6 if name == Path("out.run.json") else 2):
            shutil.rmtree(store)
            shutil.copytree(kept, store, ignore=shutil.ignore_patterns("out.run.json"))
            record.write_bytes((kept / "out.run.json").read_bytes())
            place = record if name.name == "out.run.json" else store / name
            place.write_text(mutate(json.loads((kept / name).read_bytes()), rng))
            state = place.read_text()[:300]
            command = commands[rng.randrange(4)] if i % 4 else commands[0]
            capsys.readouterr()
            code = run_script(*command)
            err = capsys.readouterr().err
            assert code in (0, 2), (name, command, state, err)
            assert "Traceback" not in err, (name, command, state)
            if code:
                assert err.strip().splitlines()[-1].count("error: ") == 1, (name, command, err)
            Watcher(store).poll()
            with suppress(StoreError):
                open_results(store).load()


def test_the_store_is_of_zarr_3(made: Path) -> None:
    """Zarr reads it as well, and xarray: see test_store.py."""
    assert zarr.open_group(made, mode="r", zarr_format=3)["results"].shape == (250, 34)  # type: ignore[union-attr]
