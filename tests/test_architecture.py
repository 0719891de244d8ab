"""The house as docs/architecture.md draws it: what it names is there, and imports point one way."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "racecar"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

# What a part may import of the others, from below to above; `errors`, `options` and `explanation` serve all.
LIBRARY = ["rules", "forward", "reverse", "passes", "program", "module"]
STUDY = ["core", "images", "report", "studies", "studies of one kind", "sweep", "campaign", "commands"]
OTHERS = {"cli": "commands"}
KINDS = {
    "mutual_information",
    "classification",
    "digits",
    "cifar",
    "vgg",
    "smoke",
    "stylize",
    "plasticity",
    "coarse_to_fine",
    "singular_vectors",
    "forecasting",
    "pretrain",
    "use",
}


def imports(path: Path) -> set[str]:
    """Modules of racecar that a file imports, wherever in it; for type checkers alone does not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] == "racecar"}


def part(module: str, parts: list[str], depth: int) -> str | None:
    """The part of the house that a module belongs to."""
    words = module.split(".")
    name = words[depth] if len(words) > depth else ""
    if depth == 2 and name in KINDS:
        return "studies of one kind"
    name = OTHERS.get(name, name) if depth == 2 else name
    return name if name in parts else None


def modules(folder: Path) -> list[tuple[str, Path]]:
    files = sorted(folder.rglob("*.py"))
    return [(".".join(["racecar", *p.relative_to(SOURCE).with_suffix("").parts]), p) for p in files]


@pytest.mark.parametrize(("parts", "depth", "folder"), [(LIBRARY, 1, SOURCE), (STUDY, 2, SOURCE / "study")])
def test_imports_point_one_way(parts: list[str], depth: int, folder: Path) -> None:
    checked = 0
    for module, path in modules(folder):
        if depth == 1 and module.startswith("racecar.study"):
            continue
        if (own := part(module, parts, depth)) is None:
            continue
        for name in imports(path):
            other = part(name, parts, depth) if name.startswith("racecar.study") == (depth == 2) else None
            checked += other is not None
            assert other is None or parts.index(other) <= parts.index(own), f"{module} imports {name}"
    assert checked > 20


def test_the_library_does_not_know_the_study() -> None:
    for module, path in modules(SOURCE):
        if not module.startswith("racecar.study"):
            assert not [n for n in imports(path) if n.startswith("racecar.study")], module


def test_integrations_are_imported_by_the_hubs_card_alone() -> None:
    for module, path in modules(SOURCE):
        if not module.startswith("racecar.integrations") and module != "racecar.study.use.card":
            assert not [n for n in imports(path) if n.startswith("racecar.integrations")], module


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:src|docs|tests)/[\w./-]+)`", TEXT)
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_every_folder_of_the_source_is_on_the_page() -> None:
    folders = {p.parent for p in SOURCE.rglob("__init__.py")} - {SOURCE, SOURCE / "study"}
    for folder in folders:
        if "methods" not in folder.name:
            assert f"{folder.name}/" in TEXT, folder
