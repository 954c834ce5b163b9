"""The layout is held: who imports whom, what is installed, what must not be committed."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import equipoise

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "equipoise"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# The line in CONTRIBUTING.md, "Who may import whom", with the shared modules beside.
# A unit imports from lower layers only, so the members of one layer never import each other.
LINE = re.search(r"^    (targets <- .*)$", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)
LAYERS = {
    unit: layer
    for layer, units in enumerate(LINE[1].split(" <- ") if LINE else [])
    for unit in units.split(", ")
} | {"_files": -1, "_ranks": 0, "checkpoint": 0, "figures": 0, "_order_sampler": 1}
LAYERS |= {"__init__": len(LAYERS), "__main__": len(LAYERS)}
# These are loaded when asked for: inside a function, not when the module is imported.
ON_DEMAND = {
    ("balancer", "ffcv"),
    ("balancer", "report"),
    ("balancer", "streams"),
    ("audit", "ffcv"),
}

# Trainers: an extra of the name, and a file of the name with its adapter.
EXTRAS = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
TRAINERS = [name for name in EXTRAS if (PACKAGE / "trainers" / f"{name}.py").exists()]
# Optional packages, and the one unit that adapts each.
ADAPTERS = {
    **{name: {"trainers"} for name in ("accelerate", *TRAINERS)},
    "arff": {"arff"},
    "ffcv": {"ffcv"},
    "jinja2": {"report"},
    "matplotlib": {"figures"},
    "pandas": {"audit"},
    "pyarrow": {"audit"},
    "rich": {"report", "audit"},
    "triton": {"losses"},
    "typer": {"cli"},
}
# Too slow, or too optional, for `import equipoise`.
NOT_AT_IMPORT = {
    *ADAPTERS,
    *("scipy", "numba", "sklearn", "skmultilearn", "cv2", "torchvision", "torchmetrics"),
    *("pytorch_lightning", "webdataset", "datasets", "tensorboard"),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def unit_of(path: Path) -> str:
    """`samplers` for equipoise/samplers/order.py, `rates` for equipoise/rates.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(source: str) -> Iterator[tuple[str, bool, int]]:
    """Each imported dotted name, whether it waits (for a call, or for a type checker), its line."""

    def visit(node: ast.AST, waits: bool) -> Iterator[tuple[str, bool, int]]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            assert not getattr(node, "level", 0), "imports are absolute"
            yield from ((base + alias.name, waits, node.lineno) for alias in node.names)
        waits |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        waits |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, waits)

    yield from visit(ast.parse(source), False)


def test_imports_are_read_in_every_form():
    source = """
import torch.nn as nn
from equipoise.rates import ClassRates
if TYPE_CHECKING:
    from equipoise.balancer import Balancer
def later():
    import ffcv
"""
    assert [found[:2] for found in imports_of(source)] == [
        ("torch.nn", False),
        ("equipoise.rates.ClassRates", False),
        ("equipoise.balancer.Balancer", True),
        ("ffcv", True),
    ]


def test_every_file_has_its_place():
    unplaced = [name_of(path) for path in SOURCES if unit_of(path) not in LAYERS]
    assert not unplaced, f"{unplaced} have no layer: add them to the line in CONTRIBUTING.md"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_down_the_layers_and_optional_packages_are_in_their_adapter(path: Path):
    unit = unit_of(path)
    for name, waits, line in imports_of(path.read_text(encoding="utf-8")):
        first, *rest = name.split(".")
        here = f"{name_of(path)}, line {line}: {name}"
        assert unit in ADAPTERS.get(first, {unit}), f"{here} is imported in {ADAPTERS[first]} only"
        if first == "equipoise":
            # `from equipoise import Balancer` goes by way of equipoise/__init__.py, on top.
            other = rest[0] if rest and rest[0] in LAYERS else "__init__"
            down = other == unit or LAYERS[other] < LAYERS[unit]
            on_demand = waits and (unit, other) in ON_DEMAND
            assert down or on_demand, f"{here} is in its own layer or one above"


def test_there_is_no_catch_all():
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


def test_import_is_light():
    """`import equipoise` brings in none of the slow or optional packages that torch does not."""
    program = (
        "import sys, torch; before = set(sys.modules); import equipoise; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    added = set(done.stdout.split())
    assert "equipoise" in added
    assert not added & NOT_AT_IMPORT


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_that_is_missing_is_named_with_its_extra(name, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"equipoise.trainers.{name}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'equipoise\[{name}\]'"):
        importlib.import_module(f"equipoise.trainers.{name}")


def test_what_is_installed_is_equipoise_alone_typed_with_its_version():
    """A user's own `losses/` or `samplers/` must not be shadowed."""
    installed = importlib.metadata.distribution("equipoise")
    assert (installed.read_text("top_level.txt") or "").split() == ["equipoise"]
    assert installed.version == equipoise.__version__, "run `make setup`"
    assert (PACKAGE / "py.typed").is_file()
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = pyproject.partition("[tool.setuptools.package-data]")[2].partition("\n[")[0]
    assert '"py.typed"' in section, "py.typed is not among the package's data"


def committed_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# Written so that this file does not match its own patterns.
NEVER_COMMITTED = {
    "an absolute path of somebody's machine": r"(?<![\w.~*-])/(?:work|root|(?:home|Users)/\w+)/\w",
    "a package registry's address": r"(?:py[p]i|pythonho[s]ted|npm[j]s|crat[e]s)\.(?:org|com|io)\b"
    r"|download\.py[t]orch\.org|d[e]b\.debian\.org|archive\.ub[u]ntu\.com"
    r"|--(?:extra-)?ind[e]x-url",
}


@pytest.mark.parametrize("what", NEVER_COMMITTED)
def test_nothing_of_this_machine_is_committed(what: str):
    pattern = re.compile(NEVER_COMMITTED[what])
    found = []
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{name_of(path)}: {match.group()}" for match in pattern.finditer(text)]
    assert not found, f"committed files contain {what}: {found}"


def test_constraints_are_plain_pins():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
