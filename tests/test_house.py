"""What holds for the house as a whole: the order of imports, what an import costs, what is never used."""

import ast
import configparser
import importlib.util
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from flint_posthoc import FlintExplainer
from flint_posthoc.measures import contributions

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"captum", "timm", "torchvision", "transformers", "matplotlib", "jinja2", "sklearn", "scipy", "pandas", "tqdm.auto", "jsonargparse"}
UNPICKLES = {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve", "torch.load"}
SOURCES = sorted(path for folder in ("flint_posthoc", "adapters") for path in (ROOT / folder).rglob("*.py"))

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys, flint_posthoc
names = [module.name for module in pkgutil.walk_packages(flint_posthoc.__path__, "flint_posthoc.") if not module.name.endswith("__main__")]
for name in [*names, "flint_posthoc.adapters"]:
    importlib.import_module(name)
print(*sorted(sys.modules), sep="\\n")
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter outside the checkout, so that only what is installed can be imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT.anchor, env=environment, capture_output=True, text=True, check=False)


def test_every_room_imports_only_from_rooms_above_it() -> None:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_root_is_imported_by_nobody_in_the_house() -> None:
    pattern = re.compile(
        r"^\s*(from flint_posthoc import|import flint_posthoc\s*$|from \.+ import .*\b(FlintExplainer|__version__)\b)", re.MULTILINE
    )
    assert [path.name for path in SOURCES if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_adapters_are_found_by_their_entry_points_and_imported_by_nobody() -> None:
    pattern = re.compile(r"^\s*(from|import)\s+[.\w]*\badapters\b|^\s*from\s+\.+\s+import\s.*\badapters\b", re.MULTILINE)
    rooms = [path for path in SOURCES if "flint_posthoc" in path.relative_to(ROOT).parts]
    assert [path.name for path in rooms if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_axis_names_are_checked_while_tests_run() -> None:
    with pytest.raises(TypeCheckError, match="weight"):
        contributions(torch.rand(2, 3), torch.rand(4, 2), torch.tensor([0, 1]))


def test_an_import_of_the_package_brings_in_nothing_heavy() -> None:
    result = python("-X", "importtime", "-c", "import flint_posthoc")
    assert result.returncode == 0, result.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert "flint_posthoc" in imported
    assert {name for name in imported if name in HEAVY or name.split(".")[0] in HEAVY} == set()


def test_adapters_are_a_part_of_the_package_and_never_a_package_of_their_own() -> None:
    result = python("-c", IMPORT_EVERYTHING)
    assert result.returncode == 0, result.stderr
    modules = result.stdout.split()
    assert "flint_posthoc.adapters" in modules
    assert [name for name in modules if name.split(".")[0] in ("adapters", "flint")] == []


@pytest.mark.parametrize("name", ["flint", "adapters"])
def test_no_name_that_belongs_to_others_is_installed(name: str) -> None:
    code = f"import importlib.util; spec = importlib.util.find_spec({name!r}); print(spec and spec.origin)"
    found = python("-E", "-c", code).stdout.strip()
    assert found == "None" or ROOT not in Path(found).parents


def imported_names(tree: ast.AST) -> set[str]:
    """Top-level modules that a file imports, and "torch.load" where it takes that name out of torch."""
    names = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names |= {node.module.split(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def calls_of_torch_load(tree: ast.AST) -> list[str]:
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]


def test_nothing_unpickles() -> None:
    """Only what reads weights for the command line calls ``torch.load``, and only for weights."""
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: found for name, tree in trees.items() if (found := imported_names(tree) & UNPICKLES)} == {}
    calls = {name: found for name, tree in trees.items() if (found := calls_of_torch_load(tree))}
    assert calls.keys() <= {"flint_posthoc/cli.py", "flint_posthoc/sources/classifiers.py"}
    assert [call for found in calls.values() for call in found if "weights_only=True" not in call] == []
    assert [name for name, tree in trees.items() if "allow_pickle=True" in ast.unparse(tree)] == []


def test_the_source_is_where_the_tests_are() -> None:
    """Otherwise the rest of this file would judge another checkout."""
    spec = importlib.util.find_spec("flint_posthoc")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve().parent == ROOT / "flint_posthoc"


def test_the_page_of_all_calls_names_all_calls() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    root = ast.parse((ROOT / "flint_posthoc" / "__init__.py").read_text(encoding="utf-8"))
    exported = {alias.name for node in root.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    public = exported | {name for name in dir(FlintExplainer) if not name.startswith("_")}
    assert public - set(re.findall(r"\w+", page)) == set()


def test_documents_call_only_what_there_is() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    called = {name for path in documents for name in re.findall(r"\bexplain\.(\w+)", path.read_text(encoding="utf-8"))}
    assert len(called) > 20
    assert called - set(dir(FlintExplainer)) - {"joint", "model", "py"} == set()


def test_the_measures_of_trust_give_what_their_page_promises() -> None:
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    measures = set(re.findall(r"`explain\.(\w+)\(", page.split("## Beyond fidelity")[1].split("\n\n")[2]))
    assert len(measures) > 7
    results = {name: typing.get_type_hints(getattr(FlintExplainer, name))["return"] for name in measures}
    assert {name for name, result in results.items() if not hasattr(result, "to_dict")} == set()
    without = {name for name, result in results.items() if not hasattr(result, "plot")}
    assert without == {"sanity_check", "compare_layers", "accuracy_account"}
    assert {name for name, result in results.items() if "__str__" not in vars(result)} == set()


def test_a_wheel_holds_every_package() -> None:
    """setup.cfg lists them by hand; editable installations do not notice what is missing."""
    listed = configparser.ConfigParser()
    listed.read(ROOT / "setup.cfg")
    packages = set(listed["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "flint_posthoc").rglob("__init__.py")}
    assert packages == found | {"flint_posthoc.adapters"}
    data = dict(listed["options.package_data"])
    others = {path for path in (ROOT / "flint_posthoc").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    held = {match for package, globs in data.items() for glob in globs.split(",") for match in _folder(package).glob(glob.strip())}
    assert others - held == set()


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))
