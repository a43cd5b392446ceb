"""What is said about an exception that ends a run, and the exit code."""

import ast
import builtins
from pathlib import Path

from pipeline import cli
from pipeline.exit_codes import exit_code, is_for_people, root_message


def test_what_stops_a_run_is_said_in_its_own_words():
    from components.serving_check.component import NotServable

    words = "It ended.\nTraceback (most recent call last):\nFileNotFoundError: [Errno 2] No such file or directory"
    assert root_message(NotServable(words)) == ("NotServable", words)
    wrapped = RuntimeError("components.example_gen.dataset.DatasetError: labels.csv is odd. [while running 'Rows']")
    assert root_message(wrapped) == ("DatasetError", "labels.csv is odd.")
    chained = "OSError: s3://b/a.png: 503\n\ncomponents.example_gen.outages.StoreError: No. [while running 'Examine']"
    assert root_message(RuntimeError(chained)) == ("StoreError", "No.")
    for name in ("TooManyRejects", "NotServable"):  # which do not end with Error
        text = f"components.example_gen.quarantine.{name}: Too many. [while running 'Count']"
        assert root_message(RuntimeError(text)) == (name, "Too many.")


def exceptions_of_ours():
    """Names of the exception classes of components and pipeline, without importing them; private ones left out."""
    root = Path(cli.__file__).parent.parent
    trees = [ast.parse(path.read_text("utf-8")) for name in ("components", "pipeline")
             for path in sorted((root / name).rglob("*.py"))]  # fmt: skip
    classes = {node.name: {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
                           for base in node.bases}
               for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}  # fmt: skip
    known = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    found = set()
    while more := {name for name, bases in classes.items() if bases & (known | found)} - found:
        found |= more
    return {name for name in found if not name.startswith("_")}


def test_every_exception_of_ours_is_for_people_or_ends_no_run():
    caught = {
        "AmbiguousFile", "BenchmarkError", "CommandError", "ImportProblem", "KubeflowError", "LabellingError",
        "NoModelError", "NoReport", "NoSuchRun", "NotValidated", "NothingRun", "NothingToCompare", "Rejected",
        "ReviewError",
    }  # fmt: skip
    found = exceptions_of_ours()
    assert {name for name in found if not is_for_people(name)} == caught
    assert {"DatasetError", "StoreError", "NoImages"} <= found  # of exceptions of the standard library and of ours


def test_what_no_other_try_can_mend_has_a_code_of_its_own():
    """Airflow tries a step again that ends with 1."""
    from components.example_gen.outages import StoreError
    from components.example_gen.table import DatasetError
    from components.example_validator.component import DataAnomalies, DataDrift

    errors = (DatasetError(), DataAnomalies(), DataDrift(), StoreError(), OSError())
    codes = [exit_code(root_message(error)[0]) for error in errors]
    assert codes == [cli.USAGE, cli.USAGE, cli.DRIFT, cli.ERROR, cli.ERROR]
