"""What is decided for all pages together: which are used, and how their documents are divided among the splits."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from components.common import storage
from components.common.words import counted
from components.example_gen.outages import is_of_the_store, unreadable
from components.example_gen.plan import fill_splits
from components.example_gen.rejects import Rejected, as_rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError, plain
from components.example_gen.walking import files as files_of
from components.example_gen.walking import refuse_workspace
from components.line_finder.data import require_baselines
from components.line_finder.settings import PagesConfig
from components.pages.files import (
    ELSEWHERE,
    NEARBY,
    Claim,
    ImportProblem,
    PageFile,
    documents_of,
    find_pages,
    geometry_of,
    image_of_damaged,
    locate_image,
    lost_claims,
)
from components.pages.images import require_fitting
from htr_client import pages
from htr_client.errors import ImageError
from htr_client.files import SUFFIXES
from htr_client.pages.xml_files import MAX_BYTES


@dataclass(frozen=True)
class RejectedPage:
    """A page that cannot be used.

    Attributes:
        page: Its name.
        reason: One of a few words, for counting.
        detail: What exactly is wrong.
        lost: Whether a page is lost with it; not so with a file beside the pages, such as METS, nor with a second file
            of a page that is used.
    """

    page: str
    reason: str
    detail: str
    lost: bool = True


@dataclass(frozen=True)
class PagePlan:
    """What is decided for all pages.

    Attributes:
        pages: Pages to read, each with its document as `writer`, and its split.
        rejected: Pages that are left out already.
        notes: What people should know of it, sentences.
        unnamed: Number of pages that name no document, so that each counts as one of its own.
    """

    pages: tuple[tuple[PageFile, str], ...]
    rejected: tuple[RejectedPage, ...]
    notes: tuple[str, ...]
    unnamed: int


def list_pages(data: DataConfig, settings: PagesConfig) -> list[PageFile]:
    """The XML files of the data folders.

    Args:
        data: Section `data`.
        settings: Section `pages`.

    Raises:
        DatasetError: There are none, or `pages.document` does not fit.
    """
    if not data.paths:
        raise DatasetError(
            "No data folder given: name one with --data DIR (a folder with PAGE XML or ALTO, and images)."
        )
    try:
        found = find_pages(data.paths, settings.document, data.allow_outside)
        for root in _roots(found):
            refuse_workspace(root)
    except (ImportProblem, OSError) as error:
        found_out = error.__cause__ if isinstance(error.__cause__, DatasetError | OSError) else error
        raise unreadable(str(error).replace("--writer", "pages.document"), found_out) from error
    return found


def plan_pages(data: DataConfig, settings: PagesConfig) -> PagePlan:
    """Reads the XML files of all pages and divides their documents.

    An image is used once (`components.pages.files.lost_claims`), by a page of its shape whose lines all have baselines.

    Args:
        data: Section `data`: folders, shares of the splits, salt.
        settings: Section `pages`.

    Raises:
        DatasetError: There are no pages, or too few documents to divide, or a bucket fails.
    """
    files = list_pages(data, settings)
    rejected, claims, sizes_of = _examine(files)
    misfits = _misfits(claims, sizes_of)
    rejected += misfits.values()
    claims = [replace(claim, usable=claim.usable and claim.file not in misfits) for claim in claims]
    lost, documents = lost_claims(claims), documents_of(claims)
    for claim in claims:
        if loses := lost.get(claim.file):
            rejected.append(RejectedPage(claim.file.name, loses.reason, loses.detail))
    used = [claim for claim in claims if claim.usable and claim.file not in lost]
    claims_of, images = {claim.file.name: claim for claim in claims}, {claim.image for claim in used}
    rejected = [replace(one, lost=_is_lost(one, claims_of.get(one.page), images)) for one in rejected]
    kept = [replace(one.file, writer=one.file.writer or documents[one.file] or one.file.key) for one in used]
    sizes = Counter(file.writer for file in kept)
    rule = fill_splits(sizes, data)
    if rule is None:
        detail = f" {rejected[0].page}: {rejected[0].detail}" if rejected else ""
        or_apart = "; or let each page stand for itself, with pages.document='.*', which underestimates the error"
        advice = f"four of like size usually do{f'{or_apart} on new documents' if len(sizes) < len(kept) else ''}"
        raise DatasetError(
            f"{counted(len(kept), 'usable page')} of {counted(len(sizes), 'document')} cannot be divided into pages to "
            f"train on, for validation and for evaluation; {len(rejected)} of {counted(len(files), 'page')} cannot be "
            f"used.{detail} Add documents: {advice}."
        )
    notes = []
    if taken := [f"{document} for {split}" for document, split in rule.forced.items()]:
        notes.append(
            f"The draw by document leaves splits empty; taken instead: {', '.join(taken)}. They may change their "
            "split when documents are added."
        )
    alone = sum(not (claim.file.writer or documents[claim.file]) for claim in used)
    if alone:
        notes.append(
            f"{counted(alone, 'page')} of {len(used)} {'name' if alone > 1 else 'names'} no document, so that each "
            "counts as one of its own. If several are of one document, say so with pages.document=folder or a pattern: "
            "otherwise F1 and CER are of documents that were trained on."
        )
    if elsewhere := [claim for claim in used if claim.place == ELSEWHERE]:
        notes.append(
            f"Pages whose image was found by its name in another folder: {len(elsewhere)}, such as "
            f"{plain(elsewhere[0].image)} for {elsewhere[0].file.name}."
        )
    divided = tuple((file, rule.assign(None, file.writer, file.writer, "", data)) for file in kept)
    return PagePlan(divided, tuple(rejected), tuple(notes), alone)


def _examine(files: list[PageFile]) -> tuple[list[RejectedPage], list[Claim], dict[PageFile, pages.Page]]:
    """What the XML files tell: those that cannot be used, the images that pages would take, and the pages' sizes."""
    rejected: list[RejectedPage] = []
    claims: list[Claim] = []
    sizes_of: dict[PageFile, pages.Page] = {}
    for file in files:
        try:
            page = pages.read(storage.read(file.path, MAX_BYTES + 1))
            image, place = locate_image(page.image, file)
            claims.append(Claim(file, image, place, usable=False, document=page.document))
            if not page.lines:
                raise Rejected("no_lines", "the page has no lines")
            require_baselines(page, file)
        except (pages.PageError, Rejected, OSError) as error:
            if is_of_the_store(file.path, error):
                raise unreadable(f"The pages cannot be read: {error}.", error) from error
            if isinstance(error, pages.PageError) and (image := image_of_damaged(file)):
                claims.append(Claim(file, image, NEARBY, usable=False))
            why = as_rejected(error)
            rejected.append(RejectedPage(file.name, why.reason, why.detail))
            continue
        claims[-1] = replace(claims[-1], usable=True, geometry=geometry_of(page.lines))
        sizes_of[file] = replace(page, lines=())
    return rejected, claims, sizes_of


def _is_lost(rejected: RejectedPage, claim: Claim | None, used: Collection[str]) -> bool:
    """Whether a page is lost with a file: exports have other XML files beside the pages, and pages in two formats.

    Args:
        rejected: What is wrong with the file.
        claim: Its image, if it has one.
        used: Images of the pages that are used. A page without its own image may have found one of them.
    """
    return rejected.reason != "not_a_page" and not (claim and claim.place != ELSEWHERE and claim.image in used)


def _misfits(claims: list[Claim], pages_of: dict[PageFile, pages.Page]) -> dict[PageFile, RejectedPage]:
    """Pages that want the image of another page, and have another shape than it.

    Only images that several pages want are looked at: to read all of them here would take long.
    """
    lost = lost_claims(claims)
    contested = {*lost, *(one.owner for one in lost.values())}
    found: dict[PageFile, RejectedPage] = {}
    for claim in claims:
        if claim.usable and claim.file in contested:
            try:
                require_fitting(claim.image, pages_of[claim.file])
            except Rejected as error:
                found[claim.file] = RejectedPage(claim.file.name, error.reason, error.detail)
            except (ImageError, OSError) as error:  # of a damaged image, reading its page tells later
                if is_of_the_store(claim.image, error):
                    raise unreadable(f"The pages cannot be read: {error}.", error) from error
    return found


def _roots(found: list[PageFile]) -> list[str]:
    """All input folders, also those without XML files: images may lie in them."""
    return sorted({root for file in found for root in (file.root, *file.others)})


def stamps(data: DataConfig, settings: PagesConfig) -> Iterator[str]:
    """Lines that change when an XML file or an image of the data folders does.

    Args:
        data: Section `data`.
        settings: Section `pages`.

    Yields:
        Path and stamp of each file.

    Raises:
        DatasetError: There are no pages.
    """
    found = list_pages(data, settings)
    for root in _roots(found):
        for file in files_of(root):
            if file.path.lower().endswith((".xml", *SUFFIXES)):
                yield f"{file.path}\0{file.stamp}"
    for page in found if data.allow_outside else ():
        with contextlib.suppress(pages.PageError, Rejected, OSError):  # a run tells what is wrong with it
            image, _ = locate_image(pages.read(storage.read(page.path, MAX_BYTES + 1)).image, page)
            if not any(storage.is_inside(image, root) for root in (page.root, *page.others)):
                yield f"{image}\0{storage.stamp(image)}"
