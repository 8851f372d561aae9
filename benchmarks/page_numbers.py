"""Numbers of a page that come from no result: settings, definitions, and figures that others have published.

docs/other_numbers.yaml allows them, by page: a heading allows the numbers of its section, any other text its own. Not
counted are numbers in code, links and names (SO-101, 640x480), of arXiv, dates, versions, lists and exit codes, and
the 95% of intervals.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from benchmarks.result_files import ROOT

ALLOWED = ROOT / "docs" / "other_numbers.yaml"
NUMBER = re.compile(r"(?<!\w)(?<![A-Za-z][-./@])\d+(?:[.,]\d+)*(?!\w)")
HEADING = re.compile(r"^(#+) .*$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
IGNORED = [
    CODE_BLOCK,
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"`[^`\n]*`"),
    re.compile(r"<[^<>\n]*>"),
    re.compile(r"\]\([^)\n]*\)"),
    re.compile(r"https?://\S+"),
    re.compile(r"95% intervals?|exit code \d+"),
    re.compile(r"arXiv \d+\.\d+"),
    re.compile(r"\d{4}-\d\d-\d\d|\d+\.\d+\.\d+"),
    re.compile(r"^ *(?:#+ )?\d+\. ", re.MULTILINE),
]


class Number(NamedTuple):
    """A number of a page, and its place in the text."""

    text: str
    place: int


class Sorted(NamedTuple):
    """Numbers of a page that are allowed, and those that are not; entries of the list that the page does not have."""

    allowed: list[Number]
    untraced: list[Number]
    stale: list[str]


def read_allowed(file: Path) -> dict[str, dict[str, str]]:
    """Reasons by page, and by heading or text."""
    return yaml.safe_load(file.read_text())


def find_numbers(text: str) -> list[Number]:
    """All numbers of a text that count."""
    return [Number(match[0], match.start()) for match in NUMBER.finditer(_without_ignored(text))]


def sort_numbers(text: str, allowed: Mapping[str, str]) -> Sorted:
    """Numbers of a page without its figures; `allowed`: reasons by heading or text."""
    spans = {entry: list(find_spans(text, entry)) for entry in allowed}
    places = [span for entry_spans in spans.values() for span in entry_spans]
    numbers = find_numbers(text)
    inside = [number for number in numbers if any(start <= number.place < end for start, end in places)]
    untraced = [number for number in numbers if number not in inside]
    return Sorted(inside, untraced, [entry for entry, entry_spans in spans.items() if not entry_spans])


def find_spans(text: str, entry: str) -> Iterator[tuple[int, int]]:
    """Start and end of a heading's section, or of every place of another text."""
    if not entry.startswith("#"):
        words = r"\s+".join(re.escape(word) for word in entry.split())
        yield from (match.span() for match in re.finditer(words, text))
        return
    headings = list(HEADING.finditer(CODE_BLOCK.sub(lambda match: blank(match[0]), text)))
    for number, heading in enumerate(headings):
        if text[slice(*heading.span())] == entry:
            level = len(heading[1])
            following = (later.start() for later in headings[number + 1 :] if len(later[1]) <= level)
            yield heading.start(), next(following, len(text))


def _without_ignored(text: str) -> str:
    """Text with spaces in place of what does not count, so that all places stay the same."""
    for pattern in IGNORED:
        text = pattern.sub(lambda match: blank(match[0]), text)
    return text


def blank(text: str) -> str:
    """Spaces and line ends in place of a text."""
    return re.sub(r"[^\n]", " ", text)
