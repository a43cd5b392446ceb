"""Formats of pages: what is written is read back the same, and files of other tools are read as they are meant."""

import dataclasses
import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client import pages
from htr_client.pages import Line, Page, PageError, Word

LETTERS = st.characters(blacklist_categories=("Cc", "Cs", "Cn"), blacklist_characters=" ￾￿")
WORDS = st.text(LETTERS, min_size=1, max_size=8)
NUMBERS = st.integers(0, 5000)
CONFIDENCES = st.none() | st.integers(0, 10_000).map(lambda number: number / 10_000)
POLYGONS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=12).map(tuple)
BASELINES = st.just(()) | st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=5).map(tuple)
BOXES = st.tuples(NUMBERS, NUMBERS, st.integers(1, 99), st.integers(1, 99)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@st.composite
def any_pages(draw):
    lines = []
    for number in range(draw(st.integers(0, 6))):
        words = draw(st.lists(WORDS, max_size=4))
        boxed = draw(st.booleans())
        lines.append(
            Line(
                text=" ".join(words),
                baseline=draw(BASELINES),
                polygon=draw(POLYGONS),
                confidence=draw(CONFIDENCES),
                words=tuple(Word(word, draw(BOXES), draw(CONFIDENCES)) for word in words) if boxed else (),
                id=f"l{number}",
                region=f"r{number // 2}",
            )
        )
    return Page(draw(WORDS), draw(NUMBERS), draw(NUMBERS), tuple(lines), draw(st.just("") | WORDS))


@given(any_pages())
def test_json_is_read_back_the_same(page):
    assert pages.from_json(pages.write(page, "json")) == page


@given(any_pages())
def test_page_xml_is_read_back_the_same(page):
    assert pages.read(pages.write(page, "page").encode()) == dataclasses.replace(page, document="")


@given(any_pages())
def test_alto_is_read_back_the_same(page):
    """ALTO knows no confidence of a line whose words it has, and one word is the same as a line of one word."""

    def kept(line):
        if not line.words and line.text and " " not in line.text:
            whole = Word(line.text, line.box, line.confidence)
            left, top, right, bottom = line.box
            has_box = line.polygon and left < right and top < bottom
            return dataclasses.replace(line, words=(whole,) if has_box else ())
        if len(line.words) == 1:
            return dataclasses.replace(line, confidence=line.words[0].confidence)
        return dataclasses.replace(line, confidence=None) if line.words else line

    expected = dataclasses.replace(page, lines=tuple(map(kept, page.lines)))
    assert pages.read(pages.write(page, "alto").encode()) == expected


@given(any_pages())
def test_hocr_has_all_texts_in_order(page):
    root = ElementTree.fromstring(pages.write(page, "hocr"))
    found = [element for element in root.iter() if element.get("class") == "ocr_line"]
    assert ["".join(element.itertext()) for element in found] == [line.text for line in page.lines]
    boxes = ["bbox " + " ".join(map(str, line.box)) for line in page.lines]
    assert [element.get("title").partition(";")[0] for element in found] == boxes


def test_hocr_has_the_places_of_a_line_and_of_its_words():
    words = (Word("Ceci", (212, 101, 300, 138), 0.5), Word("est", (320, 103, 400, 139), 0.25))
    polygon = ((210, 100), (590, 102), (588, 160), (211, 139))
    line = Line("Ceci est", ((220, 126), (520, 156)), polygon, 0.75, words)
    root = ElementTree.fromstring(pages.write(Page("a.png", 600, 800, (line,)), "hocr"))
    found = [one.get("title") for one in root.iter() if one.get("class") in ("ocr_line", "ocrx_word")]
    assert found == [
        "bbox 210 100 590 160; baseline 0.1000 -35; x_wconf 75; poly 210 100 590 102 588 160 211 139",
        "bbox 212 101 300 138; x_wconf 50",
        "bbox 320 103 400 139; x_wconf 25",
    ]


def test_a_line_with_nothing_but_words_has_their_box():
    line = Line("two words", words=(Word("two", (10, 12, 50, 30)), Word("words", (60, 10, 99, 28))))
    assert line.box == (10, 10, 99, 30)
    page = Page("a.png", 200, 100, (line,))
    found = {one.get("class"): one.get("title") for one in ElementTree.fromstring(pages.write(page, "hocr")).iter()}
    assert found["ocr_carea"] == found["ocr_par"] == found["ocr_line"] == "bbox 10 10 99 30"
    assert 'HPOS="10" VPOS="10" WIDTH="89" HEIGHT="20"' in pages.write(page, "alto").split("<TextLine")[0]
    assert pages.read(pages.write(page, "page").encode()).lines[0].box == line.box


@pytest.mark.parametrize("kind", ["page", "alto", "hocr"])
def test_a_line_that_lies_nowhere_does_not_drag_its_region_to_the_corner(kind):
    polygon = ((300, 400), (900, 400), (900, 450), (300, 450))
    written = pages.write(Page("a.png", 1000, 2000, (Line("one", polygon=polygon, region="r"), Line(region="r"))), kind)
    whole = {
        "page": 'id="r"><Coords points="300,400 900,400 900,450 300,450"',
        "alto": 'ID="r" HPOS="300" VPOS="400" WIDTH="600" HEIGHT="50"',
        "hocr": 'id="r" title="bbox 300 400 900 450"',
    }
    assert whole[kind] in re.sub(r">\s+<", "><", written)
    assert pages.write(Page("a.png", 9, 9, (Line("nowhere"),)), kind)


def test_text_has_an_empty_line_between_regions():
    page = Page("a.png", 9, 9, (Line("one", region="a"), Line("two", region="a"), Line("three", region="b")))
    assert pages.write(page, "text") == "one\ntwo\n\nthree\n"


def test_characters_that_xml_cannot_hold_are_replaced():
    page = Page("a.png", 9, 9, (Line("a\x07b\ud800", polygon=((0, 0), (9, 0), (9, 9))),))
    for name in ("page", "alto"):
        assert pages.read(pages.write(page, name).encode()).lines[0].text == "a�b�"
    assert "a�b�" in pages.write(page, "hocr")


def test_identifiers_are_valid_and_different():
    polygon = ((0, 0), (9, 0), (9, 9))
    lines = [Line("x", polygon=polygon, id=i, region=r) for i, r in (("1", ""), ("a", "z"), ("a", "y"), ("", "z"))]
    for name, kind in (("page", "id"), ("alto", "ID")):
        root = ElementTree.fromstring(pages.write(Page("a.png", 9, 9, tuple(lines)), name))
        found = [element.get(kind) for element in root.iter() if element.get(kind)]
        assert len(set(found)) == len(found) > 8 and not any(one[0].isdigit() for one in found)
        assert "a" in found


def test_identifiers_are_kept_where_xml_allows_them():
    """Letters of all scripts may stand in them, and a region whose lines others interrupt is still known by its own."""
    polygon = ((0, 0), (9, 0), (9, 9))
    regions = ["r1", "Straße_2", "r1", "r1", "область", "r1"]
    lines = tuple(Line("x", polygon=polygon, id=f"Zeile_ü{n}", region=name) for n, name in enumerate(regions))
    for name in ("page", "alto"):
        found = pages.read(pages.write(Page("a.png", 9, 9, lines), name).encode()).lines
        assert [line.region for line in found] == ["r1", "Straße_2", "r1_2", "r1_2", "область", "r1_3"]
        assert [line.id for line in found] == [line.id for line in lines]
    for illegal in ("a b", "1a", "a:b", "×", "", "a\n"):
        page = Page("a.png", 9, 9, (Line("x", polygon=polygon, id=illegal),))
        assert 'id="region_1_line"' in pages.write(page, "page")


def test_many_lines_without_identifiers_get_each_its_own():
    lines = tuple(Line("x", polygon=((0, 0), (9, 0), (9, 9))) for _ in range(1000))
    found = [line.id for line in pages.read(pages.write(Page("a.png", 9, 9, lines), "page").encode()).lines]
    assert found == ["region_1_line", *(f"region_1_line_{number}" for number in range(2, 1001))]


def test_the_model_refuses_a_line_that_formats_could_not_keep():
    with pytest.raises(ValueError, match="single spaces"):
        Line("a\nb")
    with pytest.raises(ValueError, match="words"):
        Line("a b", words=(Word("a", (0, 0, 1, 1)),))
    with pytest.raises(ValueError, match="no format 'pdf'"):
        pages.write(Page("a", 1, 1), "pdf")
    with pytest.raises(PageError):
        pages.from_json(json.dumps({"lines": 7}))


PAGE_2013 = """<?xml version="1.0" encoding="utf-8"?>
<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2013-07-15">
  <Metadata><Creator>x</Creator><TranskribusMetadata docId="77" pageNr="1"/></Metadata>
  <Page imageFilename="0001.jpg" imageWidth="1000" imageHeight="2000">
    <ReadingOrder><OrderedGroup id="g">
      <UnorderedGroupIndexed id="u" index="1"><RegionRef regionRef="left"/></UnorderedGroupIndexed>
      <RegionRefIndexed index="0" regionRef="right"/>
    </OrderedGroup></ReadingOrder>
    <TextRegion id="extra"><Coords points="0,0 1,1"/>
      <TextLine id="e1"><Coords points="nonsense"/><Baseline points="1,2 inf,3"/></TextLine></TextRegion>
    <TextRegion id="left"><Coords points="0,0 1,1"/>
      <TextLine id="l1"><Coords points="10,10 90,10 90,40 10,40"/><Baseline points="10,35 90.4,36"/>
        <Word id="w1"><Coords points="10,10 40,10 40,40 10,40"/><TextEquiv><Unicode>old</Unicode></TextEquiv></Word>
        <TextEquiv index="1"><Unicode>second choice</Unicode></TextEquiv>
        <TextEquiv index="0" conf="0.5"><Unicode>first
           choice</Unicode></TextEquiv>
      </TextLine></TextRegion>
    <TextRegion id="right"><Coords points="0,0 1,1"/>
      <TextLine id="r1"><Coords points="10,50 90,50 90,80"/>
        <Word id="w2"><Coords points="10,50 40,52 40,80 9,80"/><TextEquiv conf="0.9"><Unicode>two</Unicode></TextEquiv></Word>
        <Word id="w3"><Coords points="50,50 90,50 90,80"/><TextEquiv><Unicode>words</Unicode></TextEquiv></Word>
      </TextLine>
      <TextLine id="r2"><Coords points="10,90 90,90 90,99"/>
        <Word id="w4"><Coords points="10,90 40,90 40,99"/><TextEquiv><Unicode>three</Unicode></TextEquiv></Word>
        <TextEquiv conf="0.1"><Unicode/></TextEquiv></TextLine></TextRegion>
  </Page>
</PcGts>"""  # noqa: E501


def test_page_xml_of_others():
    page = pages.read(PAGE_2013.encode())
    assert (page.image, page.width, page.height, page.document) == ("0001.jpg", 1000, 2000, "77")
    assert [line.id for line in page.lines] == ["r1", "r2", "l1", "e1"]
    right, whose_text_is_empty, left, extra = page.lines
    assert right.text == "two words"
    assert right.words == (Word("two", (9, 50, 40, 80), 0.9), Word("words", (50, 50, 90, 80)))
    assert (whose_text_is_empty.text, whose_text_is_empty.confidence) == ("three", None)
    assert (left.text, left.confidence, left.words) == ("first choice", None, ())  # corrected, since it was 0.5
    assert left.baseline == ((10, 35), (90, 36))
    assert (extra.text, extra.polygon, extra.baseline) == ("", (), ())


def cell(row, column, line):
    return f'<TableCell row="{row}" col="{column}" id="c{row}{column}"><TextLine id="{line}"/></TableCell>'


def test_page_xml_lines_in_tables_are_read():
    """Transkribus has cells in a table, the PAGE of 2019 text regions; both stand where the table does."""
    cells = cell(1, 0, "t3") + cell(0, 10, "t2") + cell(0, 9, "t1")
    nested = '<TextRegion id="n"><TextLine id="t4"/><TextRegion id="m"><TextLine id="t5"/></TextRegion></TextRegion>'
    body = f"""<PcGts><Page imageFilename="a.jpg" imageWidth="10" imageHeight="20">
      <ReadingOrder><OrderedGroup id="g"><RegionRefIndexed index="0" regionRef="table"/>
        <RegionRefIndexed index="1" regionRef="text"/></OrderedGroup></ReadingOrder>
      <TextRegion id="last"><TextLine id="l"/></TextRegion><TextRegion id="text"><TextLine id="s"/></TextRegion>
      <TableRegion id="table">{cells}{nested}</TableRegion></Page></PcGts>"""
    page = pages.read(body.encode())
    assert [line.id for line in page.lines] == ["t1", "t2", "t3", "t4", "t5", "s", "l"]
    assert [line.region for line in page.lines][:4] == ["c09", "c010", "c10", "n"]


def test_page_xml_cells_of_2019_come_row_by_row():
    cells = "".join(
        f'<TextRegion id="c{row}{column}"><Roles><TableCellRole rowIndex="{row}" columnIndex="{column}"/></Roles>'
        f'<TextLine id="t{row}{column}"/></TextRegion>'
        for row, column in ((1, 0), (0, 10), (0, 9))
    )
    page = pages.read(f'<PcGts><Page><TableRegion id="t">{cells}</TableRegion></Page></PcGts>'.encode())
    assert [line.id for line in page.lines] == ["t09", "t010", "t10"]


def test_a_word_without_points_is_still_part_of_the_text():
    words = "".join(
        f'<Word><Coords points="{points}"/><TextEquiv><Unicode>{text}</Unicode></TextEquiv></Word>'
        for text, points in (("one", "1,1 2,2"), ("two", ""), ("", "2,2 3,3"), ("three", "3,3 4,4"))
    )
    body = f'<PcGts><Page><TextRegion id="r"><TextLine id="l">{words}</TextLine></TextRegion></Page></PcGts>'
    strings = '<String HPOS="1" VPOS="1" WIDTH="9" HEIGHT="9" CONTENT="one"/><String CONTENT="two three"/>'
    for data in (body.encode(), alto(4, f"<TextBlock><TextLine>{strings}</TextLine></TextBlock>")):
        (line,) = pages.read(data).lines
        assert (line.text, line.words) == ("one two three", ())


@pytest.mark.parametrize(("text", "confidence"), [("Handschrift", 0.9), ("Handschnitt", None)])
def test_the_confidence_of_a_page_xml_line_stays_where_letters_were_not_corrected(text, confidence):
    equiv, coords = "<TextEquiv{}><Unicode>{}</Unicode></TextEquiv>", '<Coords points="1,1 2,2"/>'
    words = "".join(f"<Word>{coords}{equiv.format('', word)}</Word>" for word in ("Hand", "schrift"))
    line = f"""<TextLine id="l">{words}{equiv.format(' conf="0.9"', text)}</TextLine>"""
    (line,) = pages.read(f'<PcGts><Page><TextRegion id="r">{line}</TextRegion></Page></PcGts>'.encode()).lines
    assert (line.text, line.confidence, line.words) == (text, confidence, ())


def test_page_xml_of_2010_has_an_element_for_each_point():
    coords = '<Coords><Point x="10" y="18"/><Point x="290" y="18"/><Point x="290" y="42"/></Coords>'
    damaged = '<Coords><Point x="10"/><Point x="290" y="18"/></Coords>'
    lines = f'<TextLine id="a">{coords}</TextLine><TextLine id="b">{damaged}</TextLine>'
    page = pages.read(f'<PcGts><Page><TextRegion id="r">{lines}</TextRegion></Page></PcGts>'.encode())
    assert [line.polygon for line in page.lines] == [((10, 18), (290, 18), (290, 42)), ()]


def alto(version, body, unit="pixel", size='WIDTH="1000" HEIGHT="2000"'):
    return (
        f'<alto xmlns="http://www.loc.gov/standards/alto/ns-v{version}#"><Description>'
        f"<MeasurementUnit>{unit}</MeasurementUnit><sourceImageInformation><fileName> a b.tif </fileName>"
        "</sourceImageInformation></Description>"
        f'<Layout><Page ID="p" PHYSICAL_IMG_NR="1" {size}><PrintSpace>{body}</PrintSpace></Page></Layout></alto>'
    ).encode()


def test_alto_2_has_boxes_and_the_height_of_the_baseline():
    body = """<TextBlock ID="b"><TextLine ID="t" HPOS="10" VPOS="20" WIDTH="100" HEIGHT="30" BASELINE="45.2">
      <String ID="s1" HPOS="10" VPOS="20" WIDTH="40" HEIGHT="30" CONTENT="Hand-" WC="0.25"/><SP/>
      <String ID="s2" HPOS="60" VPOS="20" WIDTH="40" HEIGHT="30" CONTENT="schrif" SUBS_TYPE="HypPart1"/>
      <HYP CONTENT="¬"/></TextLine></TextBlock>"""
    page = pages.read(alto(2, body, unit="mm10"))
    assert (page.image, page.width, page.height) == ("a b.tif", 1000, 2000)
    (line,) = page.lines
    assert line.polygon == ((10, 20), (110, 20), (110, 50), (10, 50))
    assert line.baseline == ((10, 45), (110, 45))
    assert line.text == "Hand- schrif¬"
    assert line.words[0] == Word("Hand-", (10, 20, 50, 50), 0.25)
    assert page.scaled(2000, 4000).lines[0].words[0].box == (20, 40, 100, 100)


@pytest.mark.parametrize(
    ("word", "hyphen", "text"),
    [("Fon-", "-", "de Fon-"), ("Ver", "\xad", "de Ver-"), ("Ver\xad", "-", "de Ver-"), ("Ver=", "\xad", "de Ver="),
     ("Ver\u2010", "-", "de Ver\u2010"), ("Ver", "=", "de Ver=")],
)  # fmt: skip
def test_the_hyphen_of_an_alto_line_counts_once_and_is_visible(word, hyphen, text):
    strings = f'<String CONTENT="de"/><SP/><String CONTENT="{word}"/><HYP CONTENT="{hyphen}"/>'
    assert pages.read(alto(2, f"<TextBlock><TextLine>{strings}</TextLine></TextBlock>")).text == text


def test_a_page_in_millimetres_is_scaled_before_it_is_written_in_a_format_of_pixels():
    outline = '<Shape><Polygon POINTS="100 200 600 200 600 250"/></Shape>'
    page = pages.read(alto(4, f'<TextBlock ID="b"><TextLine ID="l">{outline}</TextLine></TextBlock>', unit="mm10"))
    assert pages.read(pages.write(page, "alto").encode()) == page and page.unit == "mm10"
    assert pages.from_json(pages.write(page, "json")) == page
    for name in ("page", "hocr"):
        with pytest.raises(ValueError, match=r"measured in mm10, .* page\.scaled\(width, height\)"):
            pages.write(page, name)
    scaled = page.scaled(2000, 4000)
    assert pages.read(pages.write(scaled, "page").encode()).lines[0].polygon == ((200, 400), (1200, 400), (1200, 500))
    # As Transkribus writes it over pixels.
    assert 'points="100,200 600,200 600,250"' in pages.write(page.scaled(1000, 2000), "page")


def test_alto_4_has_polygons_polylines_and_a_reading_order():
    line = '<TextLine ID="{}" BASELINE="{}"><Shape><Polygon POINTS="{}"/></Shape><String CONTENT="{}"/></TextLine>'
    body = (
        '<TextBlock ID="b1">' + line.format("t1", "1 9 8 9", "1 1 8 1 8 9", "one line") + "</TextBlock>"
        '<TextBlock ID="b2">' + line.format("t2", "1,19 8,19", "1,11 8,11 8,19", "two") + "</TextBlock>"
    )
    data = alto(4, body)
    one, two = pages.read(data).lines
    assert (one.text, one.baseline, one.polygon) == ("one line", ((1, 9), (8, 9)), ((1, 1), (8, 1), (8, 9)))
    assert (two.text, two.baseline, two.polygon) == ("two", ((1, 19), (8, 19)), ((1, 11), (8, 11), (8, 19)))
    order = b'<ReadingOrder><OrderedGroup ID="g"><ElementRef ID="x" REF="b2"/></OrderedGroup></ReadingOrder><Layout>'
    assert [line.id for line in pages.read(data.replace(b"<Layout>", order)).lines] == ["t2", "t1"]


@pytest.mark.parametrize(
    ("order", "found"),
    [
        (["c2", "c1"], ["c", "d", "a", "b"]),  # blocks of blocks
        (["b1", "b", "a", "c2"], ["b", "a", "c", "d"]),  # a block, and its lines in another order
        (["d", "b1"], ["d", "a", "b", "c"]),
    ],
)
def test_alto_lines_come_at_their_own_place_or_that_of_what_is_around_them(order, found):
    block = '<TextBlock ID="{}"><TextLine ID="{}"/><TextLine ID="{}"/></TextBlock>'
    body = "".join(
        f'<ComposedBlock ID="c{number}">{block.format(f"b{number}", *lines)}</ComposedBlock>'
        for number, lines in ((1, "ab"), (2, "cd"))
    )
    refs = "".join(f'<ElementRef REF="{ref}"/>' for ref in order)
    ordered = alto(4, body).replace(b"<Layout>", f"<ReadingOrder>{refs}</ReadingOrder><Layout>".encode())
    assert [line.id for line in pages.read(ordered).lines] == found


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged_xml"),
        (b"\x00\x01\x02", "damaged_xml"),
        (PAGE_2013[:-200].encode(), "damaged_xml"),
        (b'<?xml version="1.0" encoding="klingon"?><alto/>', "damaged_xml"),
        ("<alto>é</alto>".encode("latin-1"), "damaged_xml"),
        (b"<alto>" + b" " * 2**26 + b"</alto>", "damaged_xml"),  # too large
        (b"<alto>" + b"<a/>" * 500_000 + b"</alto>", "damaged_xml"),  # too many elements
        (b"<alto>" + b'<a b=""/>' * 250_000 + b"</alto>", "damaged_xml"),
        (b"<mets/>", "not_a_page"),
        (b"<PcGts/>", "not_a_page"),
        (b"<alto/>", "not_a_page"),
        (b"<PcGts><Page/><Page/></PcGts>", "several_pages"),
        (b"<alto><Layout><Page/><Page/></Layout></alto>", "several_pages"),
        (alto(2, "", unit="mm10", size=""), "unknown_scale"),
    ],
)
def test_a_file_that_is_no_page_has_a_reason(data, reason):
    with pytest.raises(PageError) as caught:
        pages.read(data)
    assert caught.value.reason == reason


def test_a_file_that_nests_deeply_is_read_or_refused():
    order = PAGE_2013.replace('<OrderedGroup id="g">', '<OrderedGroup id="g">' + 50_000 * "<OrderedGroup>")
    order = order.replace("</OrderedGroup>", 50_001 * "</OrderedGroup>")
    assert [line.id for line in pages.read(order.encode()).lines] == ["r1", "r2", "l1", "e1"]
    for text in (100_000 * "[", 100_000 * '{"lines":', 100_000 * "[" + 100_000 * "]"):
        with pytest.raises(PageError) as caught:
            pages.from_json(text)
        assert caught.value.reason == "not_a_page"


@pytest.mark.parametrize("name", ["width", "baseline", "box"])
def test_json_with_numbers_that_are_none_is_refused(name):
    line = Line("a", ((1, 2), (3, 4)), words=(Word("a", (0, 0, 1, 1)),))
    content = json.loads(pages.write(Page("a.png", 10, 20, (line,)), "json"))
    for number in ("1e999", "NaN"):
        if name == "width":
            content["width"] = "?"
        elif name == "baseline":
            content["lines"][0]["baseline"] = [["?", 2]]
        else:
            content["lines"][0]["words"][0]["box"] = ["?", 0, 1, 1]
        with pytest.raises(PageError) as caught:
            pages.from_json(json.dumps(content).replace('"?"', number))
        assert caught.value.reason == "not_a_page"


def test_no_entity_is_expanded(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    # Expanded, this would have two terabytes.
    bomb = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    for entities, name in ((f'<!ENTITY x SYSTEM "{secret.as_uri()}">', "x"), (f'<!ENTITY e0 "ha">{bomb}', "e12")):
        with pytest.raises(PageError, match="document type definition"):
            pages.read(f"<!DOCTYPE alto [{entities}]><alto>&{name};</alto>".encode())
