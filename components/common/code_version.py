"""Which of this repository's code a step depends on, as a digest: changed code is a changed input of a step."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

PACKAGES = ("components", "pipeline", "serving", "htr_client")
# Read at run time from the folder of the code: report templates, the schema.
_BESIDE = ("*.j2", "*.pbtxt")
_MODULE = re.compile(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+")


def digest(texts: Iterable[str], roots: dict[str, Path] | None = None) -> str:
    """Digest of all code that the modules and functions named in some texts import, directly or not.

    It follows import statements, wherever they stand, and strings that are a module's dotted name, as in the command of
    a process that is started, within this repository's packages. Neither other libraries nor the place of the packages
    change it.

    Args:
        texts: Dotted names such as "components.trainer.training.run_fn", alone or among other things.
        roots: Folders of the packages by their names; those that Python imports if None.

    Returns:
        16 hexadecimal digits.
    """
    folders = roots or _installed()
    todo = [name for text in texts for name in _MODULE.findall(text)]
    files: dict[str, bytes] = {}
    while todo:
        name, path = _module(todo.pop(), folders)
        if path is None or name in files:
            continue
        files[name] = path.read_bytes()
        todo += _imports(files[name])
        for beside in (found for pattern in _BESIDE for found in path.parent.glob(pattern)):
            files[f"{name}/{beside.name}"] = beside.read_bytes()
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def _module(name: str, folders: dict[str, Path]) -> tuple[str, Path | None]:
    """The module that a dotted name is, or that defines it, with its file; no file if it is none of ours.

    What a package's `__init__` imports counts only for names that come from there.
    """
    while name:
        package, *rest = name.split(".")
        path = folders[package].joinpath(*rest) if package in folders else Path()
        for file in (path.with_suffix(".py"), path / "__init__.py") if package in folders else ():
            if file.is_file():
                return name, file
        name = name.rpartition(".")[0]
    return name, None


@functools.cache
def _imports(code: bytes) -> tuple[str, ...]:
    """Names of this repository's packages that some code imports, or has as a string: what it starts by name."""
    names: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.fullmatch(node.value):
            names.append(node.value)
    return tuple(name for name in names if name.partition(".")[0] in PACKAGES)


def _installed() -> dict[str, Path]:
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    return {
        name: Path(spec.submodule_search_locations[0])
        for name, spec in specs.items()
        if spec and spec.submodule_search_locations
    }
