"""The imports of the source follow the tables of CONTRIBUTING.md: the folders, and the engines."""

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
SUFFIXES = (".py", "/__init__.py")
FOLDERS = ("storage", "pipelines", "model", "flows")


def imports_of(source: str) -> Iterator[str]:
    """The names that a source imports anywhere; `from a import b` gives `a.b`, which is a module or a name in `a`."""
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
    """Whether a module is one of the allowed modules or in one of them."""
    return any(f"{name}.".startswith(f"{module}.") for module in allowed)


def allowed_by_folder() -> dict[str, list[str]]:
    """What each folder may import of this project besides itself, from the table of folders."""
    table = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", TEXT, re.MULTILINE)
    return {name: list(FOLDERS) if last == "all" else re.findall(r"`([\w.]+)`", last) for name, last in table}


def users_of(engine: str) -> list[str]:
    """The files and folders that may import an engine, from the table of engines."""
    row = re.search(rf"^\| {engine} \| ([^|]+) \|", TEXT, re.MULTILINE)
    assert row, engine
    return re.findall(r"`([\w./]+)`", row[1])


def test_tables_are_parsed() -> None:
    assert set(FOLDERS) < set(allowed_by_folder())
    assert allowed_by_folder()["storage"] == []
    assert allowed_by_folder()["pipelines"] == ["storage", "model.tokenizer"]
    assert {"pipelines/generation/fanout.py", "model/training/launchers/ray_launcher.py", "flows/cluster/"} <= set(
        users_of("Ray")
    )
    assert (users_of("Prefect"), users_of("DuckDB"), users_of("torch")) == (["flows/"], ["storage/"], ["model/"])
    assert len(SOURCES) > 100


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_imports_only_the_folders_in_the_table(folder: str) -> None:
    allowed = [folder, *allowed_by_folder()[folder]]
    forbidden = [
        f"{path} imports {name}"
        for path, names in IMPORTS.items()
        for name in names
        if path.startswith(f"{folder}/") and name.split(".")[0] in (*FOLDERS, "tests") and not within(name, allowed)
    ]
    assert not forbidden


@pytest.mark.parametrize("engine", ["Ray", "Prefect", "torch"])
def test_engine_is_imported_only_by_the_modules_in_the_table(engine: str) -> None:
    allowed = users_of(engine)
    importers = {path for path, names in IMPORTS.items() if any(within(name, [engine.lower()]) for name in names)}
    assert sorted(path for path in importers if not path.startswith(tuple(allowed))) == []
    assert [prefix for prefix in allowed if not any(path.startswith(prefix) for path in importers)] == []


def test_imports_have_no_cycle() -> None:
    def files_of(name: str) -> set[str]:
        """The source files that an import of this name executes."""
        modules = [module.replace(".", "/") for module in (name, name.rpartition(".")[0])]
        paths = (f"{module}{suffix}" for module in modules for suffix in SUFFIXES)
        return {path for path in paths if path in SOURCES}

    TopologicalSorter({path: set().union(*map(files_of, names)) - {path} for path, names in IMPORTS.items()}).prepare()


def test_files_are_written_and_deleted_only_by_the_places_that_refuse_links() -> None:
    """All others write their own outputs, such as a file that the user names."""
    outside = {
        "flows/common/engines.py",
        "flows/cli/verbs/sql.py",
        "flows/server/app.py",
        "flows/server/new_records.py",
    }
    changing = {"unlink", "rmtree", "write_text", "write_bytes", "rename", "symlink_to", "mkdir"}
    users = set()
    for path, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call):
                continue
            modes = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            opens = isinstance(node.func, (ast.Name, ast.Attribute)) and (
                getattr(node.func, "id", getattr(node.func, "attr", "")) == "open"
            )
            if (opens and any(re.fullmatch(r"[wax]b?\+?", mode) for mode in modes)) or (
                isinstance(node.func, ast.Attribute) and node.func.attr in changing
            ):
                users.add(path)
    assert {path for path in users if not path.startswith("storage/places/")} == outside


def test_folder_has_at_most_about_twelve_modules() -> None:
    counts = Counter(path.rpartition("/")[0] for path in SOURCES if not path.endswith("__init__.py"))
    assert max(counts.values()) <= 14, counts.most_common(3)


def test_paths_in_contributing_exist() -> None:
    paths = re.findall(r"`((?:storage|pipelines|model|flows|tests)/[\w./]*)`", TEXT)
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_code_outside_of_storage_uses_only_types_and_errors_of_duckdb() -> None:
    used = {
        f"{path}: duckdb.{node.attr}"
        for path, source in SOURCES.items()
        if not path.startswith(tuple(users_of("DuckDB")))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "duckdb"
    }
    assert not [use for use in used if not re.search(r"duckdb\.(DuckDBPy\w+|\w*(Error|Exception))$", use)]


@pytest.mark.parametrize("path", ["storage/order.py", "storage/reading/lanes.py", "pipelines/split/canonical.py"])
def test_modules_that_place_data_import_only_numpy(path: str) -> None:
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
