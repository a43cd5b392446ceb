"""The production configuration: TensorFlow Serving on one machine, with Prometheus, made from one file of settings.

python -m serving.configuration render                 # writes serving/production/ again from its settings.yaml
python -m serving.configuration ssl-config KEY CERT --ca CA --output ssl.config
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from pydantic import ValidationError

from htr_client.whole_files import write_whole
from serving.configuration.files import render
from serving.configuration.settings import FOLDER, Settings
from serving.configuration.tls import ssl_config


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m serving.configuration`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.configuration", description=(__doc__ or "").splitlines()[0]
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", type=Path, default=FOLDER, help="with settings.yaml (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("render", parents=[common], help="make all files from settings.yaml again")
    command = commands.add_parser(
        "ssl-config", parents=[common], help="make the server's TLS configuration; it holds the private key"
    )
    command.add_argument("key", type=Path, help="the server's private key, PEM")
    command.add_argument("certificate", type=Path, help="its certificate chain, PEM")
    command.add_argument("--ca", type=Path, help="demand client certificates signed by these (mutual TLS), PEM")
    command.add_argument(
        "--output", type=Path, metavar="FILE",
        help="write this file, for its owner only, once all is checked (default: standard output)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    file = arguments.folder / "settings.yaml"
    try:
        settings = Settings.read(file)
        if arguments.command == "ssl-config":
            mutual = settings.tls == "mutual"
            if mutual != (arguments.ca is not None):
                raise ValueError(f"{file} asks for {'mutual TLS: give' if mutual else 'no mutual TLS: omit'} --ca")
            text, warnings = ssl_config(arguments.key, arguments.certificate, arguments.ca)
            if arguments.output is None:
                print(text, end="")
            else:
                write_whole(arguments.output, text.encode(), mode=0o600)  # one of that name may be readable by others
            for warning in warnings:
                print(f"warning: {warning}", file=sys.stderr)
            return 0
        for name, text in render(settings).items():
            (arguments.folder / name).write_text(text, encoding="utf-8")
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        print(f"error: {file}: {'; '.join(problems)}", file=sys.stderr)
        return 2
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
