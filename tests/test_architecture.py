"""The picture of the architecture page shows the imports, and what it promises can be counted."""

import ast
import re
from functools import cache
from pathlib import Path

import pyro_expfam as pef

PACKAGE = Path(pef.__file__).parent
PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"

LEAVES = {
    "formula",
    "runtime",
    "weighted",
    "table_categories",
    "table_frames",
    "table_labels",
    "tables",
    "user_warning",
}
"""Parts that import nothing of the package; the picture leaves them out."""

SCALAR_FAMILIES = {
    name
    for name in pef.families.__all__
    if isinstance(getattr(pef.families, name), type)
    and issubclass(getattr(pef.families, name), pef.families.Family)
} - {"Family", "ExponentialFamily", "Linked", "Columns", "Categorical", "Multinomial"}

Graph = dict[str, set[str]]


Name = ast.Import | ast.ImportFrom | ast.Attribute


@cache
def sources() -> list[tuple[str, list[Name]]]:
    """Every file of the package by its path, with its imports and its attributes."""
    return [
        (path.relative_to(PACKAGE).as_posix(), names_in(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def names_in(source: str) -> list[Name]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Name)]


def imported_parts(nodes: list[Name]) -> set[str]:
    """The parts of the package that a file imports."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "pyro_expfam":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_expfam."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            found |= {name[1] for name in names if name[0] == "pyro_expfam" and len(name) > 1}
    return found


def imports() -> Graph:
    """Which part of the package imports which others."""
    graph: Graph = {}
    for path, nodes in sources():
        part = path.split("/")[0].removesuffix(".py")
        if part != "__init__":
            graph.setdefault(part, set()).update(imported_parts(nodes) - {part})
    return graph


def reached(graph: Graph, start: str) -> set[str]:
    """All parts that a part imports, by whatever way."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        part = waiting.pop()
        if part not in found:
            found.add(part)
            waiting += graph[part]
    return found


def arrows_of(graph: Graph) -> set[tuple[str, str]]:
    """The arrows of a picture: those that no longer way implies."""
    return {
        (part, other)
        for part, others in graph.items()
        for other in others
        if not any(other in reached(graph, between) for between in others - {other})
    }


def arrows_of_the_page() -> set[tuple[str, str]]:
    """The arrows that the picture says it has."""
    label = re.search(r'aria-label="Import directions\. (.*?)"', PAGE.read_text(encoding="utf-8"))
    assert label is not None
    found = set()
    for sentence in label[1].rstrip(".").split(". "):
        who, whom = re.split(r" imports? ", sentence)
        found |= {(part, other) for part in names(who) for other in names(whom)}
    return {(part, other) for part, other in found if other != "none of them"}


def names(text: str) -> list[str]:
    return re.split(r", | and ", text)


def test_imports_point_one_way():
    graph = imports()
    assert all(part not in reached(graph, part) for part in graph)
    for part in LEAVES:
        assert graph[part] <= LEAVES


def test_the_picture_shows_the_imports():
    graph = {part: others - LEAVES for part, others in imports().items() if part not in LEAVES}
    assert arrows_of_the_page() == arrows_of(graph)


def test_the_picture_has_a_box_for_every_part_and_a_line_for_every_arrow():
    figure = re.search(r"<figure.*?</figure>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert figure is not None
    boxes = re.findall(r"<text [^>]*>(\w+)</text>", figure[0])
    assert sorted(boxes) == sorted(imports().keys() - LEAVES)
    lines = re.findall(r'<path d="M[\d.]+ [\d.]+ L[\d.]+ [\d.]+"/>', figure[0])
    assert len(lines) == len(arrows_of_the_page())


WITH_TABLES = ("deq", "evidence", "joint", "coefficients", "models", "guides", "checks")
"""Folders whose files the page lists."""


def test_the_page_says_what_is_in_each_file():
    text = PAGE.read_text(encoding="utf-8")
    files = {path.name for folder in WITH_TABLES for path in (PACKAGE / folder).glob("*.py")}
    missing = {name for name in files - {"__init__.py"} if f"`{name}`" not in text}
    assert not missing


def files_that_name(names: set[str]) -> list[str]:
    """Files outside of families and distributions that import one of the names or read it."""
    naming = set()
    for path, nodes in sources():
        if path.startswith(("families/", "distributions/")):
            continue
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_expfam"):
                named = {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                named = {node.attr}
            else:
                continue
            if named & names:
                naming.add(path)
    return sorted(naming)


def test_few_files_name_a_scalar_family():
    assert len(files_that_name(SCALAR_FAMILIES)) <= 6, files_that_name(SCALAR_FAMILIES)


def test_few_files_name_categories():
    assert len(files_that_name({"Categorical"})) <= 8, files_that_name({"Categorical"})


def test_few_files_touch_the_loading_of_a_problem():
    touching = {
        path
        for path, nodes in sources()
        for node in nodes
        if isinstance(node, ast.Attribute)
        and (
            (node.attr == "loading" and ast.unparse(node.value).endswith(("map", "self")))
            or (node.attr == "W" and ast.unparse(node.value).endswith(("problem", "self")))
        )
        and path.startswith(("deq/", "evidence/", "joint/", "coefficients/"))
    }
    assert 0 < len(touching) <= 9, sorted(touching)
