"""Links of the documents lead somewhere, and names that their examples import exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "serving/*.md", "client/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
EXAMPLES = [
    (name, code)
    for name in DOCUMENTS
    for code in re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.DOTALL | re.MULTILINE)
]


def _prose(path):
    """Text of a document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(path):
    """Names that GitHub gives headings: lower case, hyphens for spaces, of the rest letters and digits."""
    headings = re.findall(r"^#+ (.*)$", _prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    document = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", _prose(document))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), target


@pytest.mark.parametrize("name, code", EXAMPLES)
def test_names_of_examples_exist(name, code):
    tree, imported = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                known = hasattr(module, alias.name)
                imported[alias.asname or alias.name] = (
                    getattr(module, alias.name) if known else importlib.import_module(f"{node.module}.{alias.name}")
                )
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            assert hasattr(imported[node.value.id], node.attr), ast.unparse(node)
