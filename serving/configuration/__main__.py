"""The production configuration: TensorFlow Serving on one machine, with Prometheus, made from one file of settings.

python -m serving.configuration render                 # writes serving/production/ again from its settings.yaml
python -m serving.configuration ssl-config KEY CERT --ca CA > ssl.config
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from pydantic import ValidationError

from serving.configuration.files import render, ssl_config
from serving.configuration.settings import FOLDER, Settings


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m serving.configuration`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.configuration", description=(__doc__ or "").splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("render", help="make all files from settings.yaml again")
    command.add_argument("--folder", type=Path, default=FOLDER, help="with settings.yaml (default: %(default)s)")
    command = commands.add_parser("ssl-config", help="print the server's TLS configuration; it holds the private key")
    command.add_argument("key", type=Path, help="the server's private key, PEM")
    command.add_argument("certificate", type=Path, help="its certificate chain, PEM")
    command.add_argument("--ca", type=Path, help="demand client certificates signed by these (mutual TLS), PEM")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "ssl-config":
            mutual = Settings.read().tls == "mutual"
            if mutual != bool(arguments.ca):
                raise ValueError(
                    f"settings.yaml asks for {'mutual TLS: give' if mutual else 'no mutual TLS: omit'} --ca"
                )
            paths = [arguments.key, arguments.certificate, *([arguments.ca] if arguments.ca else [])]
            print(ssl_config(*(path.read_text(encoding="ascii") for path in paths)), end="")
            return 0
        for name, text in render(Settings.read(arguments.folder / "settings.yaml")).items():
            (arguments.folder / name).write_text(text, encoding="utf-8")
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        print(f"error: settings.yaml: {'; '.join(problems)}", file=sys.stderr)
        return 2
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
