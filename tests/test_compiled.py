"""Compiled loops whose machine code can't be read or kept are compiled for one process."""

import importlib.util
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from clusters import environment

from hlmm_dask.kernels.class_loops import ADD

LOOPS = """
from hlmm_dask.kernels.compiled import compiled, compiled_part

@compiled_part()
def _square(x):
    return x * x

@compiled()
def squares(values, out):
    for i in range(values.shape[0]):
        if values[i] < 0:
            raise ValueError("the loop's own")
        out[i] += _square(values[i])

@compiled()
def cubes(values, out):
    for i in range(values.shape[0]):
        out[i] += values[i] ** 3
"""
RUN = """
import loops, numpy, warnings
warnings.simplefilter("always")
for kind in (float, int):
    out = numpy.zeros(3, kind)
    loops.squares(numpy.arange(3, dtype=kind), out)
    loops.squares(numpy.arange(3, dtype=kind), out)
    assert out.tolist() == [0, 2, 8], out
"""


def notes(folder: Path) -> list[str]:
    """Load the loop as a new process would, use it, and return what it warns of."""
    spec = importlib.util.spec_from_file_location("loops", folder / "loops.py")
    assert spec is not None
    assert spec.loader is not None
    loops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loops)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in (float, int):
            out = np.zeros(3, kind)
            loops.squares(np.arange(3, dtype=kind), out)
            loops.squares(np.arange(3, dtype=kind), out)
            assert out.tolist() == [0, 2, 8]
        with pytest.raises(ValueError, match="the loop's own"):
            loops.squares(np.full(3, -1.0), np.zeros(3))
    return [f"{warning.category.__name__}: {warning.message}" for warning in caught]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "loops.py").write_text(LOOPS)
    assert notes(folder) == []
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of the loop with its machine code."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_damaged_code_is_compiled_again(folder: Path, suffix: str, damage: str) -> None:
    damaged = list((folder / "__pycache__").glob(f"*{suffix}"))
    assert damaged
    for path in damaged:
        held = path.read_bytes()
        noise = np.random.default_rng(1).bytes(len(held))
        left = {"empty": b"", "cut": held[: len(held) // 2], "noise": noise}
        path.write_bytes(left[damage])
    (line,) = notes(folder)
    assert line.startswith(f"RuntimeWarning: {folder / '__pycache__'}: compiled code can't be read")
    assert "(it is damaged)" in line
    assert "delete the *.nbi and *.nbc files" in line


def test_code_whose_index_is_no_file(folder: Path) -> None:
    (index,) = (folder / "__pycache__").glob("*.nbi")
    index.unlink()
    index.mkdir()
    (line,) = notes(folder)
    assert "can't be read (Is a directory)" in line


def test_code_that_was_deleted_is_written_again(folder: Path) -> None:
    for path in (folder / "__pycache__").glob("*.nbc"):
        path.unlink()
    assert notes(folder) == []
    assert list((folder / "__pycache__").glob("*.nbc"))


def test_code_of_another_function_is_not_used(tmp_path: Path) -> None:
    """As after a process that was ended between the writing of the index and of the code."""
    (tmp_path / "loops.py").write_text(LOOPS)
    run = """
import loops, numpy
for loop, power in ((loops.squares, 2), (loops.cubes, 3)):
    out = numpy.zeros(3)
    loop(numpy.arange(3.0), out)
    assert (out == numpy.arange(3.0) ** power).all(), out
"""
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-B", "-c", run], capture_output=True, text=True, check=False,
            cwd=tmp_path, env=environment(), timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
        (code,) = (tmp_path / "__pycache__").glob("loops.squares*.nbc")
        (other,) = (tmp_path / "__pycache__").glob("loops.cubes*.nbc")
        shutil.copy(code, other)
    assert said[0] == ""
    assert said[1].count("Warning: ") == 1
    assert "compiled code can't be read (it is of another function)" in said[1]


def test_each_pass_has_files_of_its_own() -> None:
    """Processes that write one index at the same time can mix up the code of its functions."""
    names = [add.__qualname__ for adders in ADD.values() for add in adders]
    assert len(set(names)) == len(names) == 4


def in_process(folder: Path, largest_file: int, **env: str) -> str:
    """What a process says that may write files up to a size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    (folder / "loops.py").write_text(LOOPS)
    done = subprocess.run(
        [sys.executable, "-B", "-c", RUN], capture_output=True, text=True, check=False, timeout=120,
        cwd=folder, env=environment(env), preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Warning: ") == 1
    return done.stderr


def test_no_room_for_compiled_code(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    said = in_process(tmp_path, 1000, NUMBA_CACHE_DIR=str(kept))
    assert f"{kept}" in said
    assert "compiled code can't be kept (File too large)" in said


def test_no_folder_for_compiled_code(tmp_path: Path) -> None:
    file = tmp_path / "__pycache__"
    file.touch()
    nowhere = str(file / "kept")
    said = in_process(tmp_path, -1, NUMBA_CACHE_DIR=nowhere, XDG_CACHE_HOME=nowhere, HOME=nowhere)
    assert "no folder for compiled code can be written; set NUMBA_CACHE_DIR" in said
