"""Which files of the input are pages, whose writer or document they belong to, and where their images lie."""

from __future__ import annotations

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

AUTO, FOLDER = "auto", "folder"
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
    """A page that can be used, and the image that it would take.

    Attributes:
        file: The page.
        image: Path of the image.
        lies_there: Whether the image lies where the page says (`locate_image`).
    """

    file: PageFile
    image: str
    lies_there: bool


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


def locate_image(name: str, page: PageFile) -> tuple[str, bool]:
    """Finds the image that a page names.

    Its name counts beside the XML file and in the folder above; a path of the machine that wrote the file, or an
    address, counts by its last part. Else the one image of that name, in any format, or of the XML file's name is
    taken, wherever it lies below the input folder.

    Args:
        name: Name as the XML file gives it; may be empty.
        page: Page that names it.

    Returns:
        Its path, and whether it lies where the page says, so that no other page has a better claim.

    Raises:
        Rejected: There is none, or several; or it lies outside of the input folder.
    """
    folder = os.path.dirname(page.path)
    base = name.replace("\\", "/").rpartition("/")[2]
    for place in (folder, os.path.dirname(folder)):
        for wanted in dict.fromkeys((name, base)):
            path = storage.absolute(wanted if storage.is_remote(wanted) else os.path.join(place, wanted))
            if wanted and storage.is_inside(path, page.root) and storage.exists(path) and not storage.is_dir(path):
                return path, True
    problem: Rejected | None = None
    # Names without their extension: the image may have been converted since.
    for wanted in (name, base, os.path.splitext(base)[0], os.path.splitext(os.path.basename(page.path))[0]):
        try:
            if wanted:
                return find_image(wanted, page).path, False
        except Rejected as rejected:
            problem = problem or rejected
    raise problem or Rejected("missing_file", f"{page.path} names no image")


def lost_claims(claims: Sequence[Claim]) -> dict[PageFile, PageFile]:
    """Decides whose an image is that several pages want, as PAGE beside ALTO does: it is used once.

    Args:
        claims: Claims of all pages that can be used, in their order.

    Returns:
        The pages that do not get their image, each with the page that gets it: one whose image lies where it says
        before others, then the first.
    """
    owners: dict[str, PageFile] = {}
    images = [_real(claim.image) for claim in claims]
    for better in (True, False):
        for claim, image in zip(claims, images, strict=True):
            if claim.lies_there == better:
                owners.setdefault(image, claim.file)
    return {
        claim.file: owners[image] for claim, image in zip(claims, images, strict=True) if owners[image] != claim.file
    }
