"""The direction of imports: the mathematics knows no files, one package knows Dask."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hlmm_dask"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(path: Path, module: str) -> set[str]:
    """Dotted names that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            # "from hlmm_dask import store" names a module by the imported name.
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {module: imported(path, module) for module, path in MODULES.items()}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def uses(module: str, *packages: str) -> set[str]:
    return {name for name in IMPORTS[module] if any(within(name, p) for p in packages)}


def under(*packages: str) -> list[str]:
    return [m for m in MODULES if any(within(m, f"hlmm_dask.{p}") for p in packages)]


@pytest.mark.parametrize("module", under("models"))
def test_models_know_numpy_and_scipy_only(module: str) -> None:
    for name in IMPORTS[module]:
        top = name.split(".")[0]
        assert (
            top in sys.stdlib_module_names
            or top in {"numpy", "scipy"}
            or any(within(name, f"hlmm_dask.{n}") for n in ("models", "errors", "arguments"))
        ), name


@pytest.mark.parametrize("module", under("kernels"))
def test_kernels_know_models_and_the_schema(module: str) -> None:
    allowed = [
        f"hlmm_dask.{name}" for name in ("errors", "arguments", "schema", "models", "kernels")
    ]
    for name in uses(module, "hlmm_dask"):
        assert any(within(name, a) for a in allowed), name


@pytest.mark.parametrize(
    "module", under("errors", "schema", "genotypes", "tables", "samples", "random_effects", "text")
)
def test_readers_know_no_models(module: str) -> None:
    above = ("models", "kernels", "store", "export", "scanning", "view", "cli")
    assert not uses(module, *(f"hlmm_dask.{name}" for name in above))


@pytest.mark.parametrize(
    "module",
    under("store", "block_markers", "layout", "placement", "lock", "durable", "json_files"),
)
def test_the_store_knows_no_readers(module: str) -> None:
    above = ("models", "kernels", "genotypes", "tables", "samples", "export", "scanning", "cli")
    assert not uses(module, *(f"hlmm_dask.{name}" for name in above))


@pytest.mark.parametrize("module", under("export"))
def test_export_reads_the_store(module: str) -> None:
    above = ("kernels", "genotypes", "scanning", "view", "cli")
    assert not uses(module, *(f"hlmm_dask.{name}" for name in above))


@pytest.mark.parametrize("module", MODULES)
def test_dask_is_known_in_one_place(module: str) -> None:
    allowed = within(module, "hlmm_dask.scanning") or module in {
        "hlmm_dask.genotypes.dataset",
        "hlmm_dask.results",  # a lazy Dataset
        # These are called by a scheduler.
        "hlmm_dask.view.dask_page",
        "hlmm_dask.view.preload",
        "hlmm_dask.view.widget",  # takes a client
    }
    assert allowed or not uses(module, "dask", "distributed")


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_what_stands_above_it(module: str) -> None:
    # The package itself only says where each name is found.
    viewers = ("cli", "cli_followup", "__main__", "__init__", "view", "plot", "followup")
    allowed = any(within(module, f"hlmm_dask.{name}") for name in viewers)
    assert allowed or not uses(module, "hlmm_dask.cli", "hlmm_dask.view")
    if within(module, "hlmm_dask.view"):
        assert not uses(module, "hlmm_dask.cli")
