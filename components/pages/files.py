"""Which files of the input are pages, whose writer or document they belong to, and where their images lie."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from components.common import storage
from components.common.suggestions import did_you_mean
from components.example_gen.folders import source_names
from components.example_gen.images import AmbiguousFile, find_image, holds_images
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
        allow_outside: Whether its image may lie outside of the input folders.
        others: The other input folders, where its image is looked for if `root` holds no images.
    """

    path: str
    root: str
    name: str
    key: str
    writer: str
    allow_outside: bool = False
    others: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class LostClaim:
    """Why a page does not get the image that it has found.

    Attributes:
        owner: Page whose image it is; None if nothing tells whose it is.
        reason: One of a few words, for counting.
        detail: What exactly is wrong.
    """

    owner: PageFile | None
    reason: str
    detail: str


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
    inputs = [storage.absolute(folder) for folder in folders]
    others = {root: tuple(other for other in inputs if other != root) for root in inputs}
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
        pages.append(PageFile(path, root, name, key, known, allow_outside, others[root]))
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
    taken, wherever it lies below the input folder, or below the others if that holds no images. Of several, it is the
    one whose folders are those of the XML file, as in `images/book/1.jpg` for `page/book/1.xml`.

    Args:
        name: Name as the XML file gives it; may be empty.
        page: Page that names it.

    Returns:
        Its path, and its place: `THERE`, `NEARBY` or `ELSEWHERE`.

    Raises:
        Rejected: There is none, or several; or it lies outside of the input folders.
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    for place in _places(page):
        for wanted in dict.fromkeys((name, base)):
            path = storage.absolute(wanted if storage.is_remote(wanted) else os.path.join(place, wanted))
            is_inside = wanted and any(storage.is_inside(path, root) for root in (page.root, *page.others))
            if is_inside and storage.exists(path) and not storage.is_dir(path):
                return path, THERE
    # Names without their extension: the image may have been converted since.
    stems = os.path.splitext(base)[0], os.path.splitext(os.path.basename(page.path))[0]
    names = [wanted for wanted in dict.fromkeys((name, base, *stems)) if wanted]
    # Of volumes with images of their own, one without an image must not get that of another one.
    roots = (page.root,) if holds_images(page.root) else (page.root, *page.others)
    problems: list[Rejected] = []
    for wanted in names:
        try:
            path = _find_below(roots, wanted, page)
            return path, NEARBY if os.path.dirname(path) in _places(page) else ELSEWHERE
        except Rejected as rejected:
            problems.append(rejected)
    # Two images of another format say more than that there is none of the format that the page names.
    problems.sort(key=lambda problem: not isinstance(problem, AmbiguousFile))
    raise problems[0] if problems else Rejected("missing_file", f"{page.path} names no image")


def _find_below(roots: Sequence[str], name: str, page: PageFile) -> str:
    """Path of the image of a name below folders.

    Raises:
        AmbiguousFile: There are several, and the folders of none, or of several, are those of the page.
        Rejected: There is none, or it lies outside of the folders.
    """
    paths: dict[str, int] = {}
    problems: list[Rejected] = []
    for root in roots:
        try:
            found = [find_image(name, replace(page, root=root)).path]
        except AmbiguousFile as several:
            found = several.paths
        except Rejected as rejected:
            problems.append(rejected)
            continue
        paths |= {path: _shared_folders(path, page) for path in found}
    if not paths:
        raise problems[-1]
    best = max(paths.values())
    fitting = [path for path, shared in paths.items() if shared == best]
    if len(paths) > 1 and not (best and len(fitting) == 1):
        raise AmbiguousFile(list(paths))
    return fitting[0]


def _shared_folders(image: str, page: PageFile) -> int:
    """How well the folders of an image fit those of an XML file; 0 where nothing says that they belong together.

    They do where their last folders have one name, or where the image lies below the folder of the document; folders
    that are there for a format do not count. The number is that of the folders which they share, from both ends. Where
    the path below the input folder is the same, no other image fits better.
    """
    of_page, of_image = _document_folders(page.path), _document_folders(image)
    roots = [root for root in (page.root, *page.others) if image.startswith(f"{root.rstrip('/')}/")]
    below = {tuple(of_image[len(_document_folders(f"{root}/")) :]) for root in roots}
    if tuple(of_page[len(_document_folders(f"{page.root}/")) :]) in below:
        return len(of_page) + 1
    start = _same(of_page, of_image)
    rest, rest_of_image = of_page[start:], of_image[start:]
    end = _same(rest[::-1], rest_of_image[::-1])
    return start + end if end or not rest else 0


def _same(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts are the same, from the first on."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _document_folders(path: str) -> list[str]:
    """The folders of a path, without those that are there for a format."""
    return [part for part in os.path.dirname(path).split("/") if part.lower() not in _FORMAT_FOLDERS]


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


def lost_claims(claims: Sequence[Claim]) -> dict[PageFile, LostClaim]:
    """Decides whose an image is that several pages want, as PAGE beside ALTO does: it is used once.

    A page whose image lies beside it or above has a better claim than one that has found it elsewhere, and of these the
    one whose folders are those of the image, even if it cannot be used: the other one would get the image of another
    document. Of pages with equal claims, the one with the better geometry gets the image, then the first. Where nothing
    tells to which of several folders an image belongs, no page gets it.

    Args:
        claims: Claims of all pages that have found an image, in their order.

    Returns:
        The usable pages that do not get their image, each with the reason.
    """
    of_images: dict[str, list[Claim]] = {}
    for claim in claims:
        of_images.setdefault(_real(claim.image), []).append(claim)
    lost: dict[PageFile, LostClaim] = {}
    for rivals in of_images.values():
        owner = max(rivals, key=_strength)  # the first of equal ones
        usable = [claim for claim in rivals if claim.usable]
        others = [claim for claim in usable if _folder(claim.file.name) != _folder(owner.file.name)]
        if others and _fit(owner) == (False, 0):
            detail = f"{owner.image} may be the image of {owner.file.name} or of {others[0].file.name}"
            advice = "Put it beside the XML file of its page, or into a folder of the same name"
            lost |= {claim.file: LostClaim(None, "ambiguous_file", f"{detail}. {advice}.") for claim in usable}
        else:
            same = LostClaim(owner.file, "same_image", f"{owner.image} is the image of {owner.file.name}")
            lost |= {claim.file: same for claim in usable if claim is not owner}
    return lost


def _strength(claim: Claim) -> tuple[tuple[bool, int], bool, int, int]:
    return (_fit(claim), claim.usable, claim.place, claim.geometry)


def _fit(claim: Claim) -> tuple[bool, int]:
    """Whether an image lies beside its page or above, else how well its folders fit."""
    is_near = claim.place != ELSEWHERE
    return is_near, 0 if is_near else _shared_folders(claim.image, claim.file)


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
