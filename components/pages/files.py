"""Which files of the input are pages, whose writer or document they belong to, and where their images lie."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from components.common import storage
from components.common.suggestions import did_you_mean
from components.example_gen.folders import source_names
from components.example_gen.images import find_image
from components.example_gen.rejects import Rejected
from components.example_gen.table import DatasetError, plain
from components.example_gen.walking import walk
from htr_client.files import SUFFIXES, is_hidden
from htr_client.pages import Line
from htr_client.pages.xml_files import corners

AUTO, FOLDER = "auto", "folder"
# Where an image lies: as the page says; beside the page or above it, under another name; in any other folder.
THERE, NEARBY, ELSEWHERE = 2, 1, 0
# Folders that Transkribus, eScriptorium and others make for the XML files of one document.
_FORMAT_FOLDERS = {"page", "alto", "xml", "page_xml", "pagexml", "alto_xml"}


class ImportProblem(ValueError):
    """The import cannot start, or cannot go on where it stopped; the message says why and what to do."""


@dataclass(frozen=True)
class PageFile:
    """An XML file of the input; small, since it travels to a worker.

    Attributes:
        path: Path of the file.
        root: Input folder that it belongs to.
        name: Name of the page, unique and without characters that a CSV file in UTF-8 cannot hold.
        key: Name that no other input folder changes, by which splits are drawn; pages of two folders may share it.
        writer: Who wrote the page or which document it belongs to; empty where the file itself must tell.
        allow_outside: Whether its image may lie outside of `root`.
    """

    path: str
    root: str
    name: str
    key: str
    writer: str
    allow_outside: bool = False


@dataclass(frozen=True)
class Claim:
    """A page and the image that it would take.

    Attributes:
        file: The page.
        image: Path of the image.
        place: How the image's place fits the page: `THERE`, `NEARBY` or `ELSEWHERE`.
        usable: Whether the page can be used. One that cannot, such as one without text, still keeps its image from
            pages that have found it elsewhere.
        geometry: How much is known of the page's lines, see `geometry_of`.
        document: Document that the page belongs to; empty if its file names none.
    """

    file: PageFile
    image: str
    place: int
    usable: bool = True
    geometry: int = 0
    document: str = ""


def find_pages(folders: Sequence[str], writer: str = AUTO, allow_outside: bool = False) -> list[PageFile]:
    """Lists the XML files below folders, sorted by folder and path; hidden ones are no pages.

    Args:
        folders: Folders to look in.
        writer: Where a page's writer or document is known from: "auto" (the file itself, else each page stands for
            itself), "folder" (pages of one folder belong together), or a regular expression for the page's name, whose
            first group is the writer.
        allow_outside: Whether images may lie outside of the folders.

    Raises:
        ImportProblem: No such folder, no XML file, or `writer` does not fit.
    """
    pattern = None
    if writer not in (AUTO, FOLDER):
        try:
            pattern = re.compile(writer)
        except re.error as error:
            hint = did_you_mean(writer, (AUTO, FOLDER))
            raise ImportProblem(
                f"--writer {writer} is neither auto nor folder, nor a regular expression: {error}{hint}"
            ) from None
    pages: list[PageFile] = []
    taken: set[str] = set()
    roots: dict[str, set[str]] = {}  # by writer as the keys tell it
    for path, root, source in _files(folders, (".xml",)):
        stem = os.path.splitext(path[len(root) :].lstrip("/"))[0]
        whole = os.fsencode(f"{source}/{stem}").decode("utf-8", "backslashreplace")
        name, number = whole, 2
        while name in taken:
            name, number = f"{whole}_{number}", number + 1
        taken.add(name)
        key = plain(root.rpartition("/")[2]) + name[len(source) :]
        known = _writer(key, writer, pattern)
        roots.setdefault(known, set()).add(root)
        pages.append(PageFile(path, root, name, key, known, allow_outside))
    if not pages:
        raise ImportProblem(f"There is no XML file anywhere below {', '.join(folders)}.")
    if writer != AUTO:
        # Folders of the same name are two, as long as nothing else tells that they belong together.
        pages = [
            page if page.writer and len(roots[page.writer]) == 1
            else replace(page, writer=_writer(page.name, writer, pattern))
            for page in pages
        ]  # fmt: skip
    if unnamed := [page.name for page in pages if writer != AUTO and not page.writer]:
        raise ImportProblem(
            f"--writer {writer} finds no writer in {len(unnamed)} of {len(pages)} page names, such as {unnamed[0]}."
        )
    return pages


def unnamed_images(folders: Sequence[str], claimed: Iterable[str]) -> list[str]:
    """Images below folders that no page takes, in the order of `find_pages`; hidden ones are none.

    Args:
        folders: The input.
        claimed: Paths of the images that pages have found.

    Raises:
        ImportProblem: A folder cannot be read.
    """
    taken = {_real(path) for path in claimed if path}
    return [path for path, _, _ in _files(folders, SUFFIXES) if _real(path) not in taken]


def _files(folders: Sequence[str], endings: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Paths of the files with such names, each with its input folder and that folder's name; no hidden ones."""
    found = []
    try:
        for root, source in source_names([storage.absolute(folder) for folder in folders]).items():
            if not storage.is_dir(root):
                raise ImportProblem(f"{root} does not exist or is no folder. Name the folder that holds the XML files.")
            for folder, names in walk(root):
                if is_hidden(folder[len(root) :].strip("/")):
                    continue
                found += [
                    (f"{folder.rstrip('/')}/{name}", root, source)
                    for name in names
                    if name.lower().endswith(endings) and not is_hidden(name)
                ]
    except (DatasetError, OSError) as error:
        raise ImportProblem(str(error)) from error
    return found


def _real(path: str) -> str:
    return path if storage.is_remote(path) else os.path.realpath(path)


def _writer(name: str, writer: str, pattern: re.Pattern[str] | None) -> str:
    """What the name of a page tells of its writer; empty for nothing."""
    if writer == FOLDER:
        return _folder(name)
    match = pattern.search(name) if pattern is not None else None
    return (match.group(1 if match.re.groups else 0) or "") if match else ""


def _folder(name: str) -> str:
    """The folder of a page, without one that is there for its format."""
    folder = PurePosixPath(name).parent
    return str(folder.parent if folder.name.lower() in _FORMAT_FOLDERS and len(folder.parts) > 1 else folder)


def locate_image(name: str, page: PageFile) -> tuple[str, int]:
    """Finds the image that a page names.

    Its name counts beside the XML file and in the folder above; a path of the machine that wrote the file, or an
    address, counts by its last part. Else the one image of that name, in any format, or of the XML file's name is
    taken, wherever it lies below the input folder.

    Args:
        name: Name as the XML file gives it; may be empty.
        page: Page that names it.

    Returns:
        Its path, and its place: `THERE`, `NEARBY` or `ELSEWHERE`.

    Raises:
        Rejected: There is none, or several; or it lies outside of the input folder.
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    for place in _places(page):
        for wanted in dict.fromkeys((name, base)):
            path = storage.absolute(wanted if storage.is_remote(wanted) else os.path.join(place, wanted))
            if wanted and storage.is_inside(path, page.root) and storage.exists(path) and not storage.is_dir(path):
                return path, THERE
    problem: Rejected | None = None
    # Names without their extension: the image may have been converted since.
    for wanted in (name, base, os.path.splitext(base)[0], os.path.splitext(os.path.basename(page.path))[0]):
        try:
            if wanted:
                path = find_image(wanted, page).path
                return path, NEARBY if os.path.dirname(path) in _places(page) else ELSEWHERE
        except Rejected as rejected:
            problem = problem or rejected
    raise problem or Rejected("missing_file", f"{page.path} names no image")


def image_of_damaged(page: PageFile) -> str:
    """The image of an XML file that cannot be read: the one of its name beside it or above; empty for none."""
    with contextlib.suppress(Rejected):
        image, place = locate_image("", page)
        return image if place != ELSEWHERE else ""
    return ""


def _places(page: PageFile) -> tuple[str, str]:
    folder = os.path.dirname(page.path)
    return folder, os.path.dirname(folder)


def geometry_of(lines: Iterable[Line]) -> int:
    """How much is known of lines: of two files of a page, the one of the larger number is used.

    ALTO of version 2, as Transkribus writes it beside PAGE, has a box and the height of the baseline only.
    """
    known = 0
    for line in lines:
        known += 1
        known += bool(line.polygon) and line.polygon != corners(Line(polygon=line.polygon).box)
        known += len(line.baseline) > 2 or len({y for _, y in line.baseline}) > 1
    return known


def lost_claims(claims: Sequence[Claim]) -> dict[PageFile, PageFile]:
    """Decides whose an image is that several pages want, as PAGE beside ALTO does: it is used once.

    A page whose image lies beside it or above has a better claim than one that has found it elsewhere, even if it
    cannot be used: the other one would get the image of another document. Of pages with equal claims, the one with the
    better geometry gets the image, then the first.

    Args:
        claims: Claims of all pages that have found an image, in their order.

    Returns:
        The usable pages that do not get their image, each with the page that has the best claim.
    """
    owners: dict[str, Claim] = {}
    images = [_real(claim.image) for claim in claims]
    for claim, image in zip(claims, images, strict=True):
        owner = owners.setdefault(image, claim)
        if _strength(claim) > _strength(owner):
            owners[image] = claim
    return {
        claim.file: owners[image].file
        for claim, image in zip(claims, images, strict=True)
        if claim.usable and owners[image] is not claim
    }


def _strength(claim: Claim) -> tuple[bool, bool, int, int]:
    return (claim.place != ELSEWHERE, claim.usable, claim.place, claim.geometry)


def documents_of(claims: Sequence[Claim]) -> dict[PageFile, str]:
    """The documents that pages belong to, empty where none is known.

    A file that names none belongs to that of another file of its image: Transkribus names it in PAGE and not in ALTO.

    Args:
        claims: Claims of all pages that have found an image.
    """
    of_images: dict[str, str] = {}
    for claim in claims:
        if claim.document and claim.place != ELSEWHERE:
            of_images.setdefault(_real(claim.image), claim.document)
    return {
        claim.file: claim.document or ("" if claim.place == ELSEWHERE else of_images.get(_real(claim.image), ""))
        for claim in claims
    }
