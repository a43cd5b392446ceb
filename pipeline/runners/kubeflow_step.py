"""Entry point of a step's container on Kubeflow Pipelines: `python -m pipeline.runners.kubeflow_step`.

TFX has an entry point of its own, written for Vertex AI. Kubeflow Pipelines itself differs from that in three ways,
which are evened out here before and after TFX's does its work:

* Inputs come without the type of the artifact. It is known from the step's own specification.
* Artifacts lie in object stores that TensorFlow may not be able to read (minio://, s3://). Kubeflow's launcher copies
  inputs to local folders before the step and outputs from there after it, so steps can work on those.
* Null values in an artifact's metadata fail the step when it has ended.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.runners.process import check_release, tell


def main(argv: Sequence[str]) -> None:
    """Runs one step.

    Args:
        argv: `--release VERSION` of what has compiled it, `--local SIDE/KEY=PATH` for each artifact that the launcher
            copies (`inputs/model=...`), TFX's arguments, and options of Beam.

    Raises:
        ConfigError: Another release has compiled it.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", type=json.loads, required=True)
    parser.add_argument("--json_serialized_inputs_spec_args", type=json.loads, required=True)
    parser.add_argument("--release")
    parser.add_argument("--local", action="append", default=[])
    arguments, beam_args = parser.parse_known_args(argv)
    advice = "build images of that release and name them (kubeflow.image, trainer_image), or compile with this one"
    check_release(arguments.release, advice)
    invocation = arguments.json_serialized_invocation_args
    local = dict(entry.split("=", 1) for entry in arguments.local)
    addresses = {}
    for side in ("inputs", "outputs"):
        for key, entry in invocation.get(side, {}).get("artifacts", {}).items():
            for artifact in entry["artifacts"]:
                if side == "inputs":
                    artifact["type"] = arguments.json_serialized_inputs_spec_args["artifacts"][key]["artifactType"]
                if path := local.get(f"{side}/{key}"):
                    addresses[path] = artifact["uri"]
                    artifact["uri"] = path
    arguments.json_serialized_invocation_args = json.dumps(invocation)
    arguments.json_serialized_inputs_spec_args = json.dumps(arguments.json_serialized_inputs_spec_args)

    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    kubeflow_v2_run_executor.main((arguments, beam_args))
    _restore(invocation["outputs"]["outputFile"], addresses)


def _restore(output_file: str, addresses: dict[str, str]) -> None:
    """Puts addresses back where the step's report names local paths, and leaves out null values."""
    with open(output_file, encoding="utf-8") as file:
        report = json.load(file)
    for entry in report.get("artifacts", {}).values():
        for artifact in entry["artifacts"]:
            artifact["uri"] = _address(artifact["uri"], addresses)
            metadata = artifact.get("metadata", {})
            artifact["metadata"] = {k: _address(v, addresses) for k, v in metadata.items() if v is not None}
    with open(output_file, "w", encoding="utf-8") as file:
        json.dump(report, file)


def _address(value: Any, addresses: dict[str, str]) -> Any:
    for path, address in addresses.items():
        if isinstance(value, str) and f"{value}/".startswith(f"{path}/"):
            return address + value.removeprefix(path)
    return value


def run(argv: Sequence[str]) -> int:
    """Runs one step as `main` does; the last line of its output says what went wrong. Returns the exit code."""
    try:
        main(argv)
    except Exception as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
