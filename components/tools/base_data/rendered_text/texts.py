"""What rendered handwriting says: names, addresses, sentences, dates and numbers in many languages.

The words come from Faker (MIT licence), which is needed for this alone and is not installed with the package; the
Kazakh ones are our own selection.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unicodedata import normalize

import numpy as np

LATIN = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿß"
    "ĀāĂăĄąĆćĊċČčĎďĐđĒēĖėĘęĚěĞğĠġĢģĦħĪīĮįİıĶķĹĺĻļĽľŁłŃńŅņŇňŐőŒœŔŕŘřŚśŞşŠšŤťŪūŮůŰűŲųŴŵŶŷŸŹźŻżŽžȘșȚț"
)
"""The letters of Europe's Latin alphabets."""

CYRILLIC = (
    "АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдеёжзийклмнопрстуфхцчшщъыьэюя"
    "ӘәҒғҚқҢңӨөҰұҮүҺһІі"
)  # fmt: skip
"""The letters of Russian and Kazakh."""

SIGNS = " 0123456789.,:;!?'‘’\"„“”«»()[]{}<>/&%+-–—=*#@§°€$£_№"
"""Digits, punctuation and signs."""

CHARACTERS = frozenset(LATIN + CYRILLIC + SIGNS)

# How often each language is written. Most users' labels are in the first ones; the rest is there for its letters.
_LOCALES = {
    "de_DE": 12, "fr_FR": 12, "en_GB": 6, "en_US": 6, "es_ES": 6, "it_IT": 5, "pt_PT": 4, "nl_NL": 4, "pl_PL": 4,
    "cs_CZ": 3, "da_DK": 3, "sv_SE": 2, "no_NO": 2, "fi_FI": 2, "hu_HU": 2, "ro_RO": 2, "hr_HR": 2, "sk_SK": 2,
    "sl_SI": 1, "lt_LT": 2, "lv_LV": 2, "et_EE": 1, "tr_TR": 2, "is_IS": 1, "ru_RU": 6, "kk_KZ": 3,
}  # fmt: skip

_CYRILLIC_LOCALES = ("ru_RU", "kk_KZ")

# Letters that stand in for others now and then, so that the rarest of them occur as well.
_ACCENTED = {
    base: [letter for letter in LATIN if letter != base and normalize("NFD", letter)[0] == base]
    for base in "ACDEGHIJKLNORSTUWYZacdeghijklnorstuwyz"
}
_ACCENTED |= {"L": [*_ACCENTED["L"], "Ł"], "l": [*_ACCENTED["l"], "ł"], "O": [*_ACCENTED["O"], "Ø"],
              "o": [*_ACCENTED["o"], "ø"], "D": [*_ACCENTED["D"], "Đ", "Ð"], "d": ["ď", "đ", "ð"], "i": ["ı", "ì"],
              "h": ["ħ"], "H": ["Ħ"], "j": []}  # fmt: skip

_KAZAKH = """
Алматы Астана Шымкент Ақтөбе Қарағанды Тараз Павлодар Өскемен Семей Атырау Қостанай Қызылорда Орал Ақтау Көкшетау
Талдықорған Екібастұз Рудный Жезқазған Балқаш Түркістан Сәтбаев Қапшағай Айгүл Айжан Алия Әлия Әсел Әсем Бекзат Болат
Гүлнар Дана Данияр Дәурен Ержан Ерлан Жанар Жәнібек Зарина Зәуре Қайрат Қанат Қуат Ләззат Мұрат Мәдина Нұрлан Нұргүл
Өмір Рауан Сәуле Серік Тимур Ұлан Үміт Шолпан Ілияс Нысанбаев Әбдіров Жұмабаев Қасымов Нұрпейісов Сүлейменов Өтегенов
кітап мектеп бала ана әке үй су нан жер күн ай жұлдыз жол қала ауыл дос тіл сөз өмір жүрек қол бас көз таң кеш түн
қыс көктем жаз күз жылқы сиыр қой тау өзен көл теңіз ағаш гүл шөп құс балық ас тұз қант шай сүт ет май алма өрік
рахмет сәлем қош келіңіз жақсы жаман үлкен кіші ескі жаңа ақ қара қызыл көк сары жасыл бір екі үш төрт бес алты жеті
сегіз тоғыз он жиырма отыз қырық елу жүз мың және бірақ өйткені егер үшін туралы дейін кейін бүгін ертең кеше һәм
гауһар қаһарман айдаһар жиһаз
"""

_RARE, _ENTRIES = 2, 3  # first entries of the seeds of random streams

_DAYS = (datetime.date(1860, 1, 1), datetime.date(2030, 12, 31))
_MARKED = ("{},", "{}.", "{}:", "{};", "{}!", "{}?", "({})", "« {} »", "„{}“", "“{}”", '"{}"', "{}-", "- {}", "'{}'")


def draw_texts(count: int, seed: int, longest: int) -> Iterator[str]:
    """Draws texts of one line.

    Args:
        count: How many.
        seed: Where the random numbers start; with the same version of Faker the texts are the same.
        longest: Most characters of one; longer ones are cut at a space.

    Yields:
        Texts in NFC whose characters are all among `CHARACTERS`.

    Raises:
        ImportError: Faker is not installed.
    """
    rng = np.random.default_rng(seed)
    fakers = _fakers(_LOCALES, rng)
    shares = np.array(list(_LOCALES.values())) / sum(_LOCALES.values())
    made = 0
    while made < count:
        locale = str(rng.choice(list(_LOCALES), p=shares))
        text = _cut(_styled(_content(locale, fakers[locale], longest, rng), rng), longest, rng)
        if text and CHARACTERS.issuperset(text):
            made += 1
            yield text


def _fakers(locales: Iterable[str], rng: np.random.Generator) -> dict[str, Any]:
    """Faker of each language."""
    from faker import Faker

    fakers = {}
    for locale in locales:
        fakers[locale] = Faker("ru_RU" if locale == "kk_KZ" else locale)
        fakers[locale].seed_instance(int(rng.integers(2**32)))
    return fakers


def draw_entries(count: int, seed: int, longest: int) -> Iterator[str]:
    """Draws what people write into the fields of forms: names, places, streets, dates, numbers, mostly in capitals.

    Args:
        count: How many.
        seed: Where the random numbers start.
        longest: Most characters of one; longer ones are cut at a space.

    Yields:
        Texts in NFC and Latin script whose characters are all among `CHARACTERS`.

    Raises:
        ImportError: Faker is not installed.
    """
    rng = np.random.default_rng([_ENTRIES, seed])
    locales = {locale: share for locale, share in _LOCALES.items() if locale not in _CYRILLIC_LOCALES}
    fakers = _fakers(locales, rng)
    shares = np.array(list(locales.values())) / sum(locales.values())
    made = 0
    while made < count:
        locale = str(rng.choice(list(locales), p=shares))
        text = " ".join(normalize("NFC", _entry(locale, fakers[locale], rng)).split())
        text = _cut(text.upper() if rng.random() < 0.85 else text, longest, rng)
        if text and CHARACTERS.issuperset(text):
            made += 1
            yield text


def _entry(locale: str, fake: Any, rng: np.random.Generator) -> str:
    """What stands in one field of a form."""
    if rng.random() < 0.15:
        return _figures(fake, rng)
    city = fake.state if locale == "it_IT" else fake.city
    kinds: list[Callable[[], str]] = [
        fake.last_name, fake.last_name, fake.last_name, fake.first_name, fake.first_name, fake.name, city,
        fake.street_name, lambda: f"{fake.last_name()}-{fake.last_name()}",
    ]  # fmt: skip
    return str(kinds[rng.integers(len(kinds))]()).split("\n")[0]


def with_every_character(texts: Sequence[str], seed: int, least: int) -> Iterator[str]:
    """Texts, and after them more of their kind, until each of `CHARACTERS` occurs often enough.

    A network knows the characters of its own training only: one that a set happens to lack is lost.

    Args:
        texts: As `draw_texts` draws them, some of each script.
        seed: Where the random numbers start.
        least: How often.

    Yields:
        All of the texts, then some of them with one character put in.
    """
    yield from texts
    rng = np.random.default_rng([_RARE, seed])
    occur = Counter("".join(texts))
    scripts = {letters: [text for text in texts if not set(letters).isdisjoint(text)] for letters in (CYRILLIC, LATIN)}
    for character in sorted(CHARACTERS - {" "}):
        script = next((letters for letters in scripts if character in letters), None)
        fitting = texts if script is None else scripts[script]
        for _ in range(least - occur[character]):
            text = fitting[rng.integers(len(fitting))]
            places = [place for place, letter in enumerate(text) if script is None or letter in script]
            place = places[rng.integers(len(places))]
            yield text[:place] + character + text[place + 1 :]


def _content(locale: str, fake: Any, longest: int, rng: np.random.Generator) -> str:
    """Something that people write in a language; as long as it comes, but about as long as is wanted."""
    if rng.random() < 0.2:
        return _figures(fake, rng)
    if locale == "kk_KZ":
        return " ".join(rng.choice(_KAZAKH.split(), size=int(rng.integers(1, max(2, longest // 8) + 1))))
    if longest > 30 and rng.random() < 0.6:
        return str(fake.sentence(nb_words=int(rng.integers(4, max(5, longest // 6) + 1))))
    # Faker draws Italian cities from a set, so in another order in each process.
    city = fake.state if locale == "it_IT" else fake.city
    kinds: list[Callable[[], str]] = [
        fake.name, fake.first_name, fake.last_name, fake.last_name, city, city, fake.street_name,
        fake.street_address, fake.job, fake.company, fake.word, fake.word, lambda: f"{fake.postcode()} {city()}",
        lambda: " ".join(fake.words(int(rng.integers(1, 4)))), lambda: " ".join(fake.words(2)), fake.country,
    ]  # fmt: skip
    return str(kinds[rng.integers(len(kinds))]()).split("\n")[0]


def _figures(fake: Any, rng: np.random.Generator) -> str:
    """A date, a time, a number, an amount."""
    day = fake.date_between_dates(*_DAYS)
    formats = ["%d.%m.%Y", "%d/%m/%Y", "%Y-%m-%d", "%d.%m.%y", "%d-%m-%Y", "%Y", "%m/%Y"]
    kinds: list[Callable[[], str]] = [
        lambda: day.strftime(formats[rng.integers(len(formats))]),
        lambda: f"{day.day} {fake.month_name()} {day.year}",
        lambda: f"{day.day}. {fake.month_name()} {day.year}",
        lambda: str(rng.integers(10 ** int(rng.integers(1, 7)))),
        lambda: f"{rng.integers(10**4) / 100:.2f} {rng.choice(['€', '$', '£', 'fr.', 'kg', 'm', '%'])}",
        lambda: f"{rng.integers(24):02d}{rng.choice([':', '.', 'h'])}{rng.integers(60):02d}",
        lambda: f"№ {rng.integers(500)}" if rng.random() < 0.3 else f"Nr. {rng.integers(500)}",
        fake.phone_number, fake.postcode, fake.building_number,
    ]  # fmt: skip
    return str(kinds[rng.integers(len(kinds))]())


def _styled(text: str, rng: np.random.Generator) -> str:
    """Capitals, punctuation, rare letters: what the words alone would not teach."""
    text = " ".join(normalize("NFC", text).split())
    draw = rng.random()
    if draw < 0.12:
        text = text.upper()
    elif draw < 0.17:
        text = text.lower()
    elif draw < 0.30:
        text = _with_rare_letters(text, rng)
    if rng.random() < 0.15:
        text = _MARKED[rng.integers(len(_MARKED))].format(text)
    if rng.random() < 0.03:
        text = text.replace("'", "’")
    if rng.random() < 0.05:
        place = int(rng.integers(len(text) + 1))
        text = text[:place] + str(rng.choice(list(SIGNS))) + text[place:]
    return " ".join(text.split())


def _with_rare_letters(text: str, rng: np.random.Generator) -> str:
    """The text with other letters in places: accented forms, or any letter of the same script and case."""

    def another(letter: str) -> str:
        if not letter.isalpha() or rng.random() > 0.25:
            return letter
        if _ACCENTED.get(letter) and rng.random() < 0.5:
            return str(rng.choice(_ACCENTED[letter]))
        script = CYRILLIC if letter in CYRILLIC else LATIN
        return str(rng.choice([other for other in script if other.isupper() == letter.isupper()]))

    if rng.random() < 0.3:
        text = text.upper()
    return "".join(map(another, normalize("NFC", text)))


def _cut(text: str, longest: int, rng: np.random.Generator) -> str:
    """The text up to the last space that leaves it short enough; now and then from its middle, as lines of a page."""
    words = text.split(" ")
    if len(words) > 3 and rng.random() < 0.4:
        words = words[int(rng.integers(1, len(words) - 1)) :]
    while len(words) > 1 and len(" ".join(words)) > longest:
        words.pop()
    return " ".join(words)[:longest].strip()
