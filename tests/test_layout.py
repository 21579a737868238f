"""CONTRIBUTING's table of what may import what, and who knows the engines, kept by the sources' imports."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ENDS = (".py", "/__init__.py")
FOLDERS = ("storage", "pipelines", "model", "flows")


def imports_of(source: str) -> Iterator[str]:
    """The modules that a source imports, wherever in it; of `from a import b` it may be `a` or `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
}
IMPORTS = {path: sorted(set(imports_of(source))) for path, source in SOURCES.items()}


def within(name: str, allowed: list[str]) -> bool:
    """Whether a module is one of those allowed, or in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in allowed)


def allowed_by_folder() -> dict[str, list[str]]:
    """The table: of ours, what each folder may import besides itself."""
    table = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", TEXT, re.MULTILINE)
    return {name: list(FOLDERS) if last == "all" else re.findall(r"`([\w.]+)`", last) for name, last in table}


def known_to(engine: str) -> list[str]:
    """The files and folders to which CONTRIBUTING says that an engine is known."""
    found = re.search(rf"\b{engine}\s+(?:is known )?to\s((?:[^;.(]|\.py|\.\w+`)+)", " ".join(TEXT.split()))
    assert found, engine
    return re.findall(r"`([\w./]+)`", found[1])


def test_the_table_and_the_lists_are_read() -> None:
    assert set(FOLDERS) < set(allowed_by_folder())
    assert allowed_by_folder()["storage"] == []
    assert allowed_by_folder()["pipelines"] == ["storage", "model.tokenizer"]
    assert {"pipelines/generation/fanout.py", "model/training/ray_launcher.py", "flows/cluster/"} <= set(
        known_to("Ray")
    )
    assert (known_to("Prefect"), known_to("DuckDB"), known_to("torch")) == (["flows/"], ["storage/"], ["model/"])
    assert len(SOURCES) > 100


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_of_ours_only_what_the_table_says(folder: str) -> None:
    allowed = [folder, *allowed_by_folder()[folder]]
    strangers = [
        f"{path} imports {name}"
        for path, names in IMPORTS.items()
        for name in names
        if path.startswith(f"{folder}/") and name.split(".")[0] in (*FOLDERS, "tests") and not within(name, allowed)
    ]
    assert not strangers


@pytest.mark.parametrize("engine", ["Ray", "Prefect", "torch"])
def test_an_engine_is_imported_only_where_it_is_known(engine: str) -> None:
    places = known_to(engine)
    users = {path for path, names in IMPORTS.items() if any(within(name, [engine.lower()]) for name in names)}
    assert sorted(path for path in users if not path.startswith(tuple(places))) == []
    assert all(any(path.startswith(place) for path in users) for place in places), "one that is named doesn't use it"


def test_no_module_imports_itself_through_others() -> None:
    def files_of(name: str) -> set[str]:
        """The files that an import of this name reads."""
        paths = (f"{module.replace('.', '/')}{end}" for module in (name, name.rpartition(".")[0]) for end in ENDS)
        return {path for path in paths if path in SOURCES}

    TopologicalSorter({path: set().union(*map(files_of, names)) - {path} for path, names in IMPORTS.items()}).prepare()


def test_a_folder_has_about_a_dozen_modules_at_most() -> None:
    counts = Counter(path.rpartition("/")[0] for path in SOURCES if not path.endswith("__init__.py"))
    assert max(counts.values()) <= 14, counts.most_common(3)


def test_what_contributing_names_is_there() -> None:
    named = re.findall(r"`((?:storage|pipelines|model|flows|tests)/[\w./]*)`", TEXT)
    assert len(named) > 40
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_outside_of_storage_duckdb_is_a_type_and_no_engine() -> None:
    used = {
        f"{path}: duckdb.{node.attr}"
        for path, source in SOURCES.items()
        if not path.startswith(tuple(known_to("DuckDB")))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "duckdb"
    }
    assert not [each for each in used if not re.search(r"duckdb\.(DuckDBPy\w+|\w*(Error|Exception))$", each)]


@pytest.mark.parametrize("path", ["storage/order.py", "storage/reading/lanes.py", "pipelines/split/canonical.py"])
def test_what_decides_which_data_goes_where_needs_numpy_alone(path: str) -> None:
    assert f"`{path}`" in TEXT
    waiting, seen = [path], set[str]()
    while waiting:
        seen.add(current := waiting.pop())
        for name in IMPORTS[current]:
            top = name.split(".")[0]
            assert top in (*FOLDERS, "numpy") or top in sys.stdlib_module_names, f"{current} imports {name}"
            for module in (name, name.rpartition(".")[0]):
                if (file := f"{module.replace('.', '/')}.py") in SOURCES and file not in seen:
                    waiting.append(file)
