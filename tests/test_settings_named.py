"""Settings that messages, reports and documents name exist."""

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.config import Config

ROOT = Path(__file__).parents[1]
SECTIONS = {
    name: type(field.default) for name, field in Config.model_fields.items() if isinstance(field.default, BaseModel)
}
_NAMED = re.compile(rf"(?<![\w./\"'`*-])(?:--set )?({'|'.join(SECTIONS)})\.([a-z]\w*)(?![\w(./])")
# Files, modules and code of other things that look like settings.
_FILES = ("py", "json", "csv", "md", "yaml", "log", "gz")
# What CONTRIBUTING.md adds as an example, and Keras' model.variables.
_OTHERS = ("label_smoothing", "variables")


def _texts(path):
    """Prose of a file: of Python the strings, of other files all that is not code."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [re.sub(r"```.*?```|\{[{%].*?[%}]\}", "", content, flags=re.DOTALL)]
    return [node.value for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Constant)
            and isinstance(node.value, str)]  # fmt: skip


def _files():
    folders = ("benchmarks", "client", "components", "docs", "kubeflow", "pipeline", "serving")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")] + sorted(ROOT.glob("*.md"))
    return sorted(str(path.relative_to(ROOT)) for path in found if path.suffix in (".py", ".j2", ".md"))


@pytest.mark.parametrize("name", _files())
def test_every_setting_that_is_named_exists(name):
    named = {match.groups() for text in _texts(ROOT / name) for match in _NAMED.finditer(text)}
    unknown = [f"{section}.{setting}" for section, setting in sorted(named)
               if setting not in SECTIONS[section].model_fields and setting not in _FILES + _OTHERS]  # fmt: skip
    assert not unknown, f"{name} names settings that do not exist"


def test_settings_are_found_in_texts():
    found = _NAMED.findall("raise data.max_pixels, or data.limit; --set gate.max_cer=0.1, not data.py or x.data.y")
    assert [f"{a}.{b}" for a, b in found] == ["data.max_pixels", "data.limit", "gate.max_cer", "data.py"]
