"""The command line: `htr-client`, and the part of `htr predict` that does the work."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from htr_client import __version__
from htr_client.errors import AlphabetMismatch, HtrError, ModelNotFound, of_system
from htr_client.files import LINE_FORMATS, PAGE_FORMATS, expand
from htr_client.model_facts import MAX_PIXELS
from htr_client.progress import Bar, Waiting
from htr_client.streams import discard, quiet_opencv, replace_missing, take_every_text, warnings_as_lines

if TYPE_CHECKING:
    from htr_client.base import DecoderOf
    from htr_client.client import HtrClient
    from htr_client.decoding import Decoder
    from htr_client.image_files import Image
    from htr_client.tls import Tls

    Connect = Callable[[argparse.Namespace, Decoder | DecoderOf | None], HtrClient]

KINDS = ("auto", "line", "page")
DECODER_OPTIONS = ("best-path", "beam")

_PENALTY, _ORDER = 6.0, 5
# Seconds for which a command waits for a server that has not answered yet, and one that has and went away.
_FIRST_PATIENCE, _PATIENCE = 2.0, 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `run` reads, with those of a server.

    Args:
        parser: Parser to add them to.
    """
    add_image_arguments(parser, kind="line")
    add_server_arguments(parser)


def add_image_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """Adds the arguments that `run` reads, without those of a server.

    Args:
        parser: Parser to add them to.
        kind: The kind of images, one of `KINDS`, if none is named.
    """
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder, glob, or - for standard input")
    parser.add_argument(
        "--format",
        choices=PAGE_FORMATS,
        default="text",
        help="json: one object a line; alto (4), page (PAGE XML 2019) and hocr are for pages (default: %(default)s)",
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default=kind,
        help="what the images show: a line or word each, or a page whose lines are found; auto looks (default: "
        "%(default)s; formats of pages mean pages)",
    )
    parser.add_argument("--output", metavar="DIR", help="folder for a file of each page, instead of standard output")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are in --output DIR already")
    _add_decoding_arguments(parser)


def _add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the decoder, and options of the beam search, which best path refuses."""
    decoding = parser.add_argument_group("decoding")
    decoding.add_argument(
        "--decoder",
        type=decoder,
        choices=DECODER_OPTIONS,
        help="decode without the version's language model (default: beam search with it, best path where there is "
        "none)",
    )
    decoding.add_argument(
        "--beam-width",
        type=int,
        metavar="N",
        help="readings that are followed at a time (default: 16)",
    )
    decoding.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="other readings of lines, in text and json (beam)"
    )
    decoding.add_argument("--lexicon", metavar="FILE", help="words to expect, one or more a line")
    decoding.add_argument(
        "--lexicon-penalty",
        type=float,
        metavar="P",
        help=f"a word that is not in the lexicon must be e^P times as likely to be chosen (default: {_PENALTY:g})",
    )
    decoding.add_argument("--strict-lexicon", action="store_true", help="allow no words outside of the lexicon")
    decoding.add_argument(
        "--lm",
        metavar="FILE",
        help="texts such as those of the images, one a line, to learn a language model from, beside the version's",
    )
    decoding.add_argument(
        "--lm-order",
        type=int,
        metavar="N",
        help=f"characters of the longest n-grams of --lm (default: {_ORDER})",
    )
    decoding.add_argument(
        "--lm-weight",
        type=float,
        metavar="W",
        help="weight of the language model (default: the version's own; with --lm, nearer to 0.4 the more texts)",
    )


def decoder(text: str) -> str:
    """The name of a decoder as options have it; settings write best_path."""
    return text.replace("_", "-")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `client_from` reads.

    Args:
        parser: Parser to add them to.
    """
    server = parser.add_argument_group("server")
    server.add_argument(
        "--server",
        default="localhost:8500",
        metavar="HOST:PORT",
        help="gRPC address; several with commas (default: %(default)s)",
    )
    server.add_argument(
        "--model", default="htr", metavar="NAME", help="name of the served model (default: %(default)s)"
    )
    which = server.add_mutually_exclusive_group()
    which.add_argument("--model-version", type=int, metavar="N", help="exact version (default: the server's latest)")
    which.add_argument("--model-label", metavar="LABEL", help="the version with this label, such as stable or canary")
    server.add_argument(
        "--timeout", type=float, default=15.0, metavar="SECONDS", help="limit for one request (default: %(default)g)"
    )
    server.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="how long to wait for a server that does not answer (default: "
        f"{_FIRST_PATIENCE:g} before its first answer, {_PATIENCE:g} after it, so that it may be restarted)",
    )
    server.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="most images in a request (default: %(default)s)"
    )
    server.add_argument(
        "--in-flight", type=int, default=4, metavar="N", help="most requests at a time (default: %(default)s)"
    )
    add_tls_arguments(server)


def add_tls_arguments(group: "argparse._ArgumentGroup") -> None:
    """Adds the arguments that say whether and how connections are encrypted.

    Args:
        group: Group of a parser to add them to.
    """
    group.add_argument("--tls", action="store_true", help="encrypt, and trust the usual public certificates")
    group.add_argument("--tls-ca", metavar="PEM", help="encrypt, and trust what these certificates signed")
    group.add_argument("--tls-certificate", metavar="PEM", help="this client's certificate (mutual TLS)")
    group.add_argument("--tls-key", metavar="PEM", help="its private key")
    group.add_argument(
        "--tls-server-name", metavar="NAME", help="name in the server's certificate, if it differs from the address"
    )


def client_from(
    args: argparse.Namespace, decoder: "Decoder | DecoderOf | None" = None, max_pixels: int = MAX_PIXELS
) -> "HtrClient":
    """The client that the arguments describe, connected to its server.

    Args:
        args: As `add_server_arguments` defines them.
        decoder: As for `HtrClient`.
        max_pixels: As for `HtrClient`.

    Returns:
        The client.

    Raises:
        ValueError: When a number is impossible, settings contradict each other, an address is not one, or a certificate
            or key is not PEM.
        OSError: When a certificate or key cannot be read.
        HtrError: When the server does not answer, or has no model of a name that is a path.
    """
    _check_numbers(args, batch_size=1, in_flight=1, patience=0)
    if not args.timeout > 0:  # nor NaN
        raise ValueError(f"--timeout is a number of seconds above 0, not {args.timeout:g}")
    from htr_client.client import HtrClient  # so that --help does not wait for gRPC

    client = HtrClient(
        args.server,
        args.model,
        version=args.model_version,
        label=args.model_label,
        tls=_tls(args),
        timeout=args.timeout,
        patience=_PATIENCE if args.patience is None else args.patience,
        batch_size=args.batch_size,
        in_flight=args.in_flight,
        decoder=decoder,
        max_pixels=max_pixels,
    )
    if args.patience is None:
        client.connect(_FIRST_PATIENCE)
    else:
        with Waiting(f"Waiting for a server at {client.server} ..."):
            client.connect(max(1.0, args.patience))  # however impatient, one attempt to connect takes its time
    if os.path.basename(args.model) != args.model:  # as of a path, such as other commands take for a model
        try:
            client.model_status()
        except ModelNotFound as error:
            advice = "--model is the name of a served model here: `htr read` takes the folder of a model."
            raise ModelNotFound(f"The server has no model {args.model!r}.", advice=advice, code=error.code) from error
    return client


def run(args: argparse.Namespace, connect: "Connect" = client_from) -> int:
    """Transcribes the images and prints the results.

    Args:
        args: As `add_arguments` defines them.
        connect: Makes the client from the arguments and a decoder (None for the client's own choice).

    Returns:
        Exit code: 0 when every image was transcribed, 1 when one or more were not (or lines of them) or the server
        failed, 2 for wrong usage, 130 after Ctrl-C (or the attribute `code` of the KeyboardInterrupt).
    """
    take_every_text(sys.stdout)
    try:
        # They load libraries for a second, in which Ctrl-C may be pressed, too.
        from htr_client.image_files import read_file
        from htr_client.kinds import failure, suspicions, transcribe
        from htr_client.output import ResultWriter, one_field, plain

        paths = list(expand(args.images))
        if "-" in paths and sys.stdin is None:
            raise ValueError("standard input (-) is closed: name a file, or pipe an image in")
        files = _files(args, paths)
        client = connect(args, _decoder(args))
    except (ValueError, OSError) as error:
        print(f"error: {of_system(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    except HtrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("Interrupted.", file=sys.stderr)
        return getattr(interrupt, "code", 130)  # of SIGTERM, for a program that makes the same exception of it
    failed = 0
    bar = Bar(len(paths))
    try:
        waiting = Waiting(f"Waiting for answers from {client.server} ...")
        with client, waiting, warnings_as_lines(bar.clear):
            write = ResultWriter(args.format, sys.stdout, files, overwrite=args.overwrite)
            kind = args.kind if args.format in LINE_FORMATS else "page"
            images: list[Image] = [read_file(sys.stdin.buffer) if path == "-" else path for path in paths]
            for done, (path, result) in enumerate(zip(paths, transcribe(client, images, kind), strict=True), 1):
                waiting.moved()
                bar.clear()
                name = plain(path)
                write(name, result)
                name = one_field(name)
                for suspicion in suspicions(result):
                    print(f"warning: {name}: {suspicion.message}", file=sys.stderr)
                refused = failure(result)
                if refused is not None:
                    failed += 1
                    print(f"error: {name}: {refused}", file=sys.stderr)
                bar.draw(done, failed)
        if files is not None and not write.files_written:
            print(f"note: nothing was written to {args.output}: no image was transcribed as a page.", file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has gone (such as head); nothing may be written at exit either.
        discard(sys.stdout)
        return 1
    except AlphabetMismatch as error:
        bar.clear()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (HtrError, OSError) as error:  # the server's, or the folder's of --output
        bar.clear()
        print(f"error: {of_system(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        bar.clear()
        print("Interrupted.", file=sys.stderr)
        return getattr(interrupt, "code", 130)
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """The command `htr-client`.

    Args:
        argv: Arguments; by default the process's.

    Returns:
        Exit code, see `run`.
    """
    replace_missing()
    quiet_opencv()
    parser = argparse.ArgumentParser("htr-client", description="Transcribe images of handwriting.")
    parser.add_argument(
        "--version", action="version", version=f"htr-client {__version__}", help="show the version and exit"
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def _files(args: argparse.Namespace, paths: list[str]) -> list[str] | None:
    """The file of each image's page, none of which is there yet unless it may be replaced; None without --output."""
    from htr_client.output import files_of

    if args.output is None:
        if args.overwrite:
            raise ValueError("--overwrite goes with --output DIR")
        if args.format not in LINE_FORMATS and len(paths) > 1:
            raise ValueError(f"--format {args.format} makes a document of each page: name a folder with --output")
        return None
    if args.kind == "line" and args.format in LINE_FORMATS:
        raise ValueError("--output makes a file of each page, and images of lines are none: add --kind page or auto")
    files = files_of(paths, args.output, args.format)
    there = [file for file in files if os.path.lexists(file)]
    if there and not args.overwrite:
        others = f" and {len(there) - 1} more exist" if len(there) > 1 else " exists"
        raise ValueError(f"{there[0]}{others} already: name another folder with --output, or add --overwrite")
    return files


def _decoder(args: argparse.Namespace) -> "Decoder | DecoderOf | None":
    given = _given(args)
    _check_decoding(args, given)
    if args.decoder == "best-path":
        from htr_client.decoding import BestPath

        return BestPath()
    by_default = not given - {"alternatives"}
    if not given:
        return None
    from htr_client.beam import PrefixBeamSearch, default_decoder
    from htr_client.language import CharacterModel, LanguageModel, MixedModel
    from htr_client.lexicon import Lexicon

    penalty = _PENALTY if args.lexicon_penalty is None else args.lexicon_penalty
    unknown = None if args.strict_lexicon else -penalty
    with _reading("--lexicon"):
        lexicon = Lexicon.from_file(args.lexicon, unknown=unknown) if args.lexicon else None
    order = _ORDER if args.lm_order is None else args.lm_order
    with _reading("--lm"):
        model = CharacterModel.from_file(args.lm, order=order) if args.lm else None

    def search(language_model: "CharacterModel | LanguageModel | MixedModel | None") -> PrefixBeamSearch:
        return PrefixBeamSearch(
            16 if args.beam_width is None else args.beam_width,
            alternatives=args.alternatives,
            lexicon=lexicon,
            language_model=language_model,
            language_weight=args.lm_weight,
        )

    def decoder_of(own: LanguageModel | None) -> "Decoder":
        if by_default and own is not None:  # other readings change neither text nor confidence
            return default_decoder(own, args.alternatives)
        known = own if args.decoder is None else None
        chosen = model.beside(known) if model is not None else known
        if chosen is None and args.lm_weight is not None:
            warnings.warn("the version has no language model, so --lm-weight does nothing: use --lm FILE", stacklevel=1)
        return search(chosen)

    search(None)  # refuses now what cannot be
    return decoder_of


@contextmanager
def _reading(option: str) -> Iterator[None]:
    """Names the option whose file cannot be read."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{option} {error.filename} cannot be read: {error.strerror}") from error


def _check_numbers(args: argparse.Namespace, **least: int) -> None:
    """Refuses numbers below the least one that each option takes, and NaN.

    Raises:
        ValueError: With the option.
    """
    for name, smallest in least.items():
        number = getattr(args, name)
        if number is not None and not number >= smallest:
            raise ValueError(f"--{name.replace('_', '-')} is {smallest} or more, not {number:g}")


def _given(args: argparse.Namespace) -> set[str]:
    """Names of the options of decoding that differ from their defaults."""
    parser = argparse.ArgumentParser()
    _add_decoding_arguments(parser)
    defaults = vars(parser.parse_args([]))
    return {name for name, default in defaults.items() if getattr(args, name) != default}


def _check_decoding(args: argparse.Namespace, given: set[str]) -> None:
    """Refuses options that would do nothing.

    Raises:
        ValueError: With what to do.
    """
    if args.decoder == "best-path" and (others := sorted(given - {"decoder"})):
        options = " or ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ValueError(f"--decoder best-path takes no {options}: leave one or the other out")
    _check_numbers(args, beam_width=1, alternatives=0)
    if args.alternatives and (args.format not in ("text", "json") or args.kind == "page"):
        raise ValueError("--alternatives goes with images of lines in --format text or json: pages and csv have none")
    if args.strict_lexicon and not args.lexicon:
        raise ValueError("--strict-lexicon goes with --lexicon FILE")
    if args.lexicon_penalty is not None:
        if not args.lexicon:
            raise ValueError("--lexicon-penalty goes with --lexicon FILE")
        if args.strict_lexicon:
            raise ValueError("--strict-lexicon allows no other words: leave it or --lexicon-penalty out")
        if not args.lexicon_penalty >= 0:  # nor NaN
            raise ValueError(f"--lexicon-penalty is 0 or more, such as {_PENALTY:g}, not {args.lexicon_penalty:g}")
    if args.lm_order is not None and not args.lm:
        raise ValueError("--lm-order goes with --lm FILE")
    if args.lm_weight is not None and args.decoder == "beam" and not args.lm:
        raise ValueError(
            "--lm-weight goes with a language model: add --lm FILE, or leave --decoder beam out to use the version's"
        )


def _tls(args: argparse.Namespace) -> "Tls | bool":
    from htr_client.tls import Tls

    parts = (args.tls_ca, args.tls_certificate, args.tls_key, args.tls_server_name)
    return Tls(*parts) if any(parts) else bool(args.tls)


if __name__ == "__main__":
    sys.exit(main())
