"""Docstrings are in the third person, and what they say of an argument or a result stands alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("client/htr_client", "serving", "components", "pipeline", "benchmarks", "docs")
# Those that begin a sentence as nouns, too, such as Free and Log, are not among them.
IMPERATIVE = re.compile(
    "(Add|Answer|Ask|Begin|Bind|Build|Call|Check|Close|Compare|Compute|Copy|Count|Create|Cut|Decode|Delete|Drain|Draw|"
    "Encode|End|Find|Finish|Follow|Forget|Get|Give|Hand|Hold|Import|Keep|Learn|Let|Load|Look|Make|Measure|Move|Open|"
    "Parse|Prepare|Print|Put|Queue|Raise|Read|Refuse|Remove|Return|Run|Save|Say|Send|Serve|Set|Start|Stop|Take|Tell|"
    r"Train|Transcribe|Turn|Unload|Wait|Write|Yield)(?![\w-])"
)
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):")
ENTRY = re.compile(r"[*\w][\w*., `]*?:(?: (.*))?")
# A type, or a name that is spelt so, such as `htr.json` and gRPC, may begin an entry: it has more than small letters.
DEPENDENT = re.compile(r"(?:Of|That|Which)\b|[a-z][a-z'-]*(?=[,;:.]?(?:\s(?!\[)|$))")


def docstrings() -> Iterator[tuple[str, ast.AST, str]]:
    """Place, node and text of each docstring."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
                if documented and (text := ast.get_docstring(node)):
                    yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node, text


def entries(docstring: str) -> Iterator[str]:
    """The texts about arguments, attributes, results and errors, up to the end of their first line."""
    section, indentation, unfinished = "", 0, False
    for line in filter(str.strip, docstring.splitlines()):
        text, depth = line.strip(), len(line) - len(line.lstrip())
        if depth == 0:
            heading = SECTION.fullmatch(line)
            section, indentation, unfinished = heading[1] if heading else "", 0, False
        elif section and (not indentation or unfinished or depth == indentation):
            if section in ("Returns", "Yields"):
                if not indentation:
                    yield text
            elif unfinished:
                yield text
                unfinished = False
            elif entry := ENTRY.fullmatch(text):
                unfinished = not entry[1]
                if entry[1]:
                    yield entry[1]
            indentation = indentation or depth


def test_functions_are_described_in_the_third_person():
    imperative = [
        f"{place}: {text.splitlines()[0]}"
        for place, node, text in docstrings()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and IMPERATIVE.match(text)
    ]

    assert not imperative


def test_arguments_and_results_are_noun_phrases_with_a_capital():
    dependent = [
        f"{place}: {entry}" for place, _, text in docstrings() for entry in entries(text) if DEPENDENT.match(entry)
    ]

    assert not dependent
