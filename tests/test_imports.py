"""The arrows of the house: which room may import which, held by reading the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER, DRIVER = ROOT / "netc", ROOT / "runtime" / "netc_runtime"
MAX_LINES = 400

# The rooms of the compiler; each may import those before it.
ROOMS = (
    "stopping",
    "errors",
    "foreign_words",
    "docstrings",
    "declared",
    "graph",
    "grad",
    "layers",
    "augment",
    "solver",
    "spec",
    "phases",
    "wiring",
    "inputs",
    "outputs",
    "network",
    "transfer",
    "monitor",
    "rewrite",
    "autocast",
    "tuning",
    "emit",
    "programs",
    "checks",
    "build",
    "arena",
    "allocation_plan",
    "memory",
    "summary",
    "zoo",
    "schema",
    "arguments",
    "commands",
    "cli",
    "__main__",
)
# Neighbours that know nothing of each other although the order would allow it.
STRANGERS = {
    ("layers", "grad"),  # a layer writes its forward only
    ("spec", "grad"),
    ("rewrite", "layers"),  # rewrites see graphs, not what they came from
    ("rewrite", "solver"),
    ("rewrite", "spec"),
    ("rewrite", "network"),
    ("zoo", "build"),
}


@dataclass(frozen=True)
class Import:
    """One import statement's target; `lazy` where it stands inside a function, or is for type checkers alone."""

    module: str
    target: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def imports(module: str, source: str, known: frozenset[str] = frozenset()) -> list[Import]:
    """Return all imports of a module; `from a import b` is of a.b where that is a known module."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide which way they go"
            name = str(node.module)
            targets = [f"{name}.{a.name}" if f"{name}.{a.name}" in known else name for a in node.names]
        found.extend(Import(module, target, getattr(node, "lineno", 0), lazy) for target in dict.fromkeys(targets))
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inner = lazy or for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(source), lazy=False)
    return found


def all_imports(package: Path) -> list[Import]:
    known = frozenset(name for name, _ in modules(package))
    return [i for name, path in modules(package) for i in imports(name, path.read_text("utf-8"), known)]


def top(module: str) -> str:
    return module.partition(".")[0]


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def backwards(found: list[Import]) -> list[str]:
    """Return the imports within the compiler that go against the order of rooms."""
    wrong: list[str] = []
    for i in found:
        here, there = room(i.module), room(i.target)
        if top(i.target) != "netc" or here is None or there is None or here == there:
            continue
        if ROOMS.index(there) > ROOMS.index(here) or (here, there) in STRANGERS:
            wrong.append(str(i))
    return wrong


def cycles(found: list[Import]) -> list[str]:
    """Return the modules that import themselves by way of others."""
    graph: dict[str, set[str]] = {}
    for i in found:
        graph.setdefault(i.module, set()).add(i.target)
    wrong: list[str] = []
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting.extend(graph.get(module, ()))
        if start in seen:
            wrong.append(start)
    return wrong


def test_every_room_has_its_place() -> None:
    assert {room(name) for name, _ in modules(COMPILER)} == {None, *ROOMS}


def test_the_compiler_never_imports_onnxruntime_or_torch() -> None:
    assert [str(i) for i in all_imports(COMPILER) if top(i.target) in ("onnxruntime", "torch")] == []


def test_the_driver_never_imports_torch() -> None:
    assert [str(i) for i in all_imports(DRIVER) if top(i.target) == "torch"] == []


def test_the_driver_never_imports_the_compiler() -> None:
    assert [str(i) for i in all_imports(DRIVER) if top(i.target) == "netc"] == []


def test_only_commands_import_the_driver() -> None:
    found = [i for i in all_imports(COMPILER) if top(i.target) == "netc_runtime"]
    assert found
    assert [str(i) for i in found if not (room(i.module) == "commands" and i.lazy)] == []


def test_rooms_are_imported_one_way() -> None:
    assert backwards(all_imports(COMPILER)) == []


@pytest.mark.parametrize("package", [COMPILER, DRIVER], ids=["netc", "netc_runtime"])
def test_no_cycles(package: Path) -> None:
    # Imports for types alone do not run; layers.base and layers.context need each other's.
    source = [(name, path.read_text("utf-8")) for name, path in modules(package)]
    known = frozenset(name for name, _ in source)
    assert cycles([i for name, text in source for i in imports(name, without_type_checking(text), known)]) == []


def without_type_checking(source: str) -> str:
    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST:
            is_guard = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return ast.Pass() if is_guard else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Drop().visit(ast.parse(source))))


@pytest.mark.parametrize(("name", "path"), [*modules(COMPILER), *modules(DRIVER)])
def test_modules_stay_short(name: str, path: Path) -> None:
    count = len(path.read_text("utf-8").splitlines())
    assert count <= MAX_LINES, f"{name} has {count} lines; split it"


def test_the_checker_sees_what_is_wrong() -> None:
    source = "import onnxruntime as ort\ndef f():\n    from netc_runtime.errors import DriverError\n"
    assert imports("netc.emit", source) == [
        Import("netc.emit", "onnxruntime", 1, lazy=False),
        Import("netc.emit", "netc_runtime.errors", 3, lazy=True),
    ]
    known = frozenset({"netc.zoo"})
    assert imports("netc.cli", "from netc import zoo, names", known) == [
        Import("netc.cli", "netc.zoo", 1, lazy=False),
        Import("netc.cli", "netc", 1, lazy=False),
    ]
    up = [
        Import("netc.grad.table", "netc.layers.base", 1, lazy=False),
        Import("netc.layers.base", "netc.grad", 1, True),
    ]
    assert backwards(up) == ["netc.grad.table:1 imports netc.layers.base", "netc.layers.base:1 imports netc.grad"]
    assert cycles([Import("a", "b", 1, False), Import("b", "c", 1, True), Import("c", "a", 1, False)]) == [*"abc"]


# Stands first in a process: importing one of these then fails, as where it is not installed.
BLOCK = """
import sys
for name in ("onnxruntime", "torch"):
    sys.modules[name] = None
"""


def in_new_process(code: str, folder: Path) -> str:
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    result = subprocess.run(
        [sys.executable, "-c", BLOCK + code], cwd=folder, env=path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_compiling_needs_neither_onnxruntime_nor_torch(tmp_path: Path) -> None:
    code = "import netc.cli\nsys.argv = ['netc', 'compile', 'lenet_dsn', '-o', 'out']\nnetc.cli.main()"
    assert in_new_process(code, tmp_path).startswith("compiled lenet_dsn to out: ")
    assert (tmp_path / "out" / "train.onnx").is_file()


def test_the_command_line_imports_neither_compiler_nor_driver(tmp_path: Path) -> None:
    # So that `netc --help` answers at once.
    heavy = ("numpy", "onnx", "pydantic", "netc_runtime")
    code = f"import netc.cli\nprint(*(name for name in {heavy} if name in sys.modules))"
    assert in_new_process(code, tmp_path).strip() == ""
