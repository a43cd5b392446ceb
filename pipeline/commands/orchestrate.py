"""Commands for orchestrators: `compile`, `submit`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.common import (
    AddCommand,
    CommandError,
    add_config_arguments,
    logged,
    read_config,
    read_given_config,
)
from pipeline.exit_codes import OK, USAGE, exit_code

if TYPE_CHECKING:
    from pipeline.config import Config


def add_commands(add: AddCommand) -> None:
    """Adds them to the parser of `htr`."""
    command = add(
        "compile",
        _compile,
        "write the pipeline for an orchestrator, which then runs it",
        "htr compile kubeflow htr.yaml --config kubeflow.yaml",
    )
    command.add_argument("target", choices=list(_COMPILERS), help="the orchestrator")
    command.add_argument("output", metavar="OUTPUT", help="airflow: its folder of DAGs; kubeflow: a YAML file")
    add_config_arguments(command)

    command = add(
        "submit",
        _submit,
        "upload the pipeline to an orchestrator and start a run of it",
        "htr submit kubeflow --config kubeflow.yaml",
    )
    command.add_argument("target", choices=["kubeflow"], help="the orchestrator")
    command.add_argument(
        "--token-file",
        metavar="FILE",
        help="bearer token of the API (default: environment variable HTR_KUBEFLOW_TOKEN)",
    )
    add_config_arguments(command)


def _compile(arguments: argparse.Namespace) -> int:
    from components.common.console import announced
    from components.common.settings import ConfigError
    from components.example_gen.table import DatasetError

    read = read_config if arguments.target == "airflow" else read_given_config  # containers see other folders
    config = read(arguments)
    if arguments.target == "airflow" and os.path.isfile(arguments.output):
        raise CommandError(f"{arguments.output} is a file. Name Airflow's folder of DAGs.", USAGE)
    log = os.path.join(config.workspace, "logs", "compile.log")
    with logged(log), announced("Loading TFX and compiling the pipeline"):
        try:
            write = _COMPILERS[arguments.target](config)
        except (ConfigError, DatasetError) as error:
            raise CommandError(str(error), exit_code(type(error).__name__)) from error
        try:
            written = write(arguments.output)
        except OSError as error:
            raise CommandError(f"cannot write {arguments.output}: {error.strerror or error}", USAGE) from error
    print(written)
    return OK


def _compile_airflow(config: Config) -> Callable[[str], Path]:
    from components.common.console import console
    from pipeline.runners import airflow_runner

    document = airflow_runner.compile_dag(config)

    def write(folder: str) -> Path:
        if other := airflow_runner.replaced_workspace(document, folder):
            console().print(
                f"Warning: this replaces the DAG {config.name} in {folder}, whose workspace was {other}. Two pipelines "
                "in one folder of DAGs need different settings of name.",
                markup=False,
            )
        return airflow_runner.write_dag(document, folder)

    return write


def _compile_kubeflow(config: Config) -> Callable[[str], Path]:
    from pipeline.runners import kubeflow_runner

    text = kubeflow_runner.as_yaml(kubeflow_runner.compile_pipeline(config))

    def write(file: str) -> Path:
        Path(file).write_text(text, encoding="utf-8")
        return Path(file)

    return write


# Each returns the function that writes what it has compiled.
_COMPILERS: dict[str, Callable[[Config], Callable[[str], Path]]] = {
    "airflow": _compile_airflow,
    "kubeflow": _compile_kubeflow,
}


def _submit(arguments: argparse.Namespace) -> int:
    from components.common.console import announced
    from components.common.settings import ConfigError

    config = read_given_config(arguments)
    token = _token(arguments.token_file)
    log = os.path.join(config.workspace, "logs", "submit.log")
    with logged(log), announced("Loading TFX, compiling and uploading the pipeline"):
        from pipeline.runners import kubeflow_runner

        try:
            page = kubeflow_runner.submit(config, token)
        except ConfigError as error:
            raise CommandError(str(error), USAGE) from error
        except kubeflow_runner.KubeflowError as error:
            raise CommandError(str(error)) from error
    print(page)
    return OK


def _token(file: str | None) -> str | None:
    """The bearer token in a file, else in the environment; None where there is none.

    Raises:
        CommandError: The file cannot be read, or what is there is no token. The message never holds it.
    """
    where, token = file or "HTR_KUBEFLOW_TOKEN", os.environ.get("HTR_KUBEFLOW_TOKEN", "")
    if file:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise CommandError(f"cannot read the token {file}: {error.strerror}", USAGE) from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{file} holds no token: it is not UTF-8", USAGE) from error
    token = token.strip()
    if not re.fullmatch("[!-~]*", token):  # the HTTP library would print the header that it refuses
        raise CommandError(f"{where} holds no token: a token is one word of ASCII characters", USAGE)
    return token or None
