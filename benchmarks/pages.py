"""Figures of the pages: README.md and docs/*.md take numbers, tables and plots from benchmarks/results.

    uv run python -m benchmarks.pages               # rewrites what differs from the results
    uv run python -m benchmarks.pages check=true    # writes nothing; a line per difference, and exit code 2

In a page a figure stands behind a comment that names it, as benchmarks/figures.py reads it, and before a closing one;
never at the start of a line. A table of benchmarks/page_tables.py stands between comments on lines of their own:

    the policy succeeds in <!--mt50 mean_of_groups-->78.0<!--/-->%

    <!--table soak-->

    | beside it | ticks |

    <!--/-->

Every other number of a page has to be in docs/other_numbers.yaml, with a reason. A result that was changed by hand is a
difference, too: each has a checksum. The last line has the numbers of all pages that come from results, that are
allowed, and that are neither.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.figures import LOOKUP_ERRORS, show_figure
from benchmarks.page_numbers import ALLOWED, Sorted, blank, find_numbers, read_allowed, sort_numbers
from benchmarks.page_tables import PLOTS, TABLES
from benchmarks.result_files import CHECKSUM, RESULTS, ROOT, changed_by_hand, read_result, write_result
from benchmarks.settings import setting, start
from tinyvla.errors import UserError, did_you_mean
from tinyvla.files import write_whole

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(
    r"<!--table (?P<table>[^<>]*)-->\n\n(?P<rows>.*?)\n\n<!--/-->"
    r"|<!--(?!/)(?P<figure>[^<>]*)-->(?P<shown>[^<\n]*)<!--/-->",
    re.DOTALL,
)
LINE_START = re.compile(r"\s*(?:[-*+>] |\d+\. )?\s*")


class Difference(NamedTuple):
    """A place that does not agree with the results; `repaired` if the command rewrites it."""

    place: str
    text: str
    repaired: bool = False


class Counts(NamedTuple):
    """Numbers of a page that come from results, that are allowed, and that are neither."""

    traced: int
    allowed: int
    untraced: int


class Update(NamedTuple):
    """A page as the results want it, where it differs, and the counts of its numbers."""

    text: str
    differences: list[Difference]
    counts: Counts


def update_page(name: str, text: str, allowed: Mapping[str, str]) -> Update:
    """Put the figures of the results into a page; `allowed`: reasons for other numbers, by heading or text."""
    differences: list[Difference] = []
    updated, remainder, end, traced = "", "", 0, 0
    for match in MARKED.finditer(text):
        current, faults = _compare(match, f"{name}:{_line(text, match.start())}")
        differences += faults
        traced += len(find_numbers(current))
        start_of_figure, end_of_figure = match.span("rows" if match["table"] else "shown")
        updated += text[end:start_of_figure] + current + text[end_of_figure : match.end()]
        remainder += text[end : match.start()] + blank(match[0])
        end = match.end()
    numbers = sort_numbers(remainder + text[end:], allowed)
    differences += _check_others(name, remainder + text[end:], numbers)
    return Update(updated + text[end:], differences, Counts(traced, len(numbers.allowed), len(numbers.untraced)))


def _compare(match: re.Match[str], place: str) -> tuple[str, list[Difference]]:
    """Text of a figure or table by its result, and the differences of the page from it."""
    shown = match["rows"] if match["table"] else match["shown"]
    before = match.string[match.string.rfind("\n", 0, match.start()) + 1 : match.start()]
    differences = []
    if not match["table"] and LINE_START.fullmatch(before):
        fault = "a comment begins the line and breaks the paragraph; put a word before it"
        differences.append(Difference(place, fault))
    try:
        current = show_table(match["table"]) if match["table"] else show_figure(match["figure"])
    except UserError as error:
        return shown, [*differences, Difference(place, str(error))]
    if current != shown:
        lines = zip_longest(shown.split("\n"), current.split("\n"), fillvalue="")
        text = "'{}' is '{}' in the result".format(*next(pair for pair in lines if pair[0] != pair[1]))
        differences.append(Difference(place, f"{text} ({match['table'] or match['figure']})", True))
    return current, differences


def _check_others(name: str, text: str, numbers: Sorted) -> Iterator[Difference]:
    """Comments without a figure, numbers without a source, and reasons without a number; text: without figures."""
    for comment in re.finditer("<!--", text):
        yield Difference(f"{name}:{_line(text, comment.start())}", "no <!--/--> ends this comment's figure in its line")
    for number in numbers.untraced:
        fault = f"{number.text} is neither from a result nor in {ALLOWED.relative_to(ROOT)}"
        yield Difference(f"{name}:{_line(text, number.place)}", fault)
    for entry in numbers.stale:
        yield Difference(str(ALLOWED.relative_to(ROOT)), f"{name} does not have '{entry}'; delete the line")


def show_table(name: str) -> str:
    """Table of a page as Markdown. Raises UserError for an unknown name, or a result of another form."""
    if name not in TABLES:
        raise UserError(f"benchmarks/page_tables.py has no table '{name}'; {did_you_mean(name, TABLES)}")
    try:
        return TABLES[name]()
    except LOOKUP_ERRORS as error:
        fault = f"{type(error).__name__}: {error}"
        raise UserError(f"the table {name} of benchmarks/page_tables.py does not fit its result ({fault})") from error


def check_results() -> Iterator[Difference]:
    """Results that were changed by hand."""
    for file in sorted(RESULTS.rglob("*.json")):
        try:
            fault = changed_by_hand(file)
        except UserError as error:
            fault = str(error)
        if fault:
            yield Difference(str(file.relative_to(ROOT)), fault)


def check_plots() -> Iterator[Difference]:
    """Plots that were drawn from another result than the present one."""
    for file in sorted(RESULTS.glob("*.png")):
        place = str(file.relative_to(ROOT))
        if file.stem not in PLOTS:
            yield Difference(
                place, "no plot of benchmarks/page_tables.py draws it; delete it, or add its function there"
            )
            continue
        with Image.open(file) as image:
            drawn_from = image.info.get(CHECKSUM)
        if drawn_from != read_result(file.stem).get(CHECKSUM):
            yield Difference(place, "is not drawn from the present result", True)


def draw(name: str) -> None:
    """Draw a plot, and note in it the checksum of its result."""
    result, file = read_result(name), RESULTS / f"{name}.png"
    PLOTS[name](result, file)
    note = PngInfo()
    note.add_text(CHECKSUM, result[CHECKSUM])
    with Image.open(file) as image:
        image.load()
    image.save(file, pnginfo=note)


@dataclass
class Settings:
    """Settings of the command line."""

    check: bool = setting(False, "write nothing; fail where a page or a result differs")
    seal: list[str] = setting([], "results of older versions: give them their form and their checksum")


def main(settings: Settings) -> None:
    for name in settings.seal:
        write_result(RESULTS / f"{name}.json", read_result(name))
    allowed = read_allowed(ALLOWED)
    differences, counts = [*check_results()], list[Counts]()
    for file in PAGES:
        text = file.read_text()
        update = update_page(str(file.relative_to(ROOT)), text, allowed.get(file.name, {}))
        differences += update.differences
        counts.append(update.counts)
        if update.text != text and not settings.check:
            write_whole(file, update.text)
    for difference in (plots := [*check_plots()]):
        if difference.repaired and not settings.check:
            draw(Path(difference.place).stem)
    differences += plots
    for difference in differences:
        print(f"{difference.place}: {difference.text}", file=sys.stderr)
    total = Counts(*(sum(column) for column in zip(*counts, strict=True)))
    print(f"{len(PAGES)} pages: {total.traced} numbers from results, {total.allowed} allowed, {total.untraced} neither")
    if left := sum(settings.check or not difference.repaired for difference in differences):
        fix = "python -m benchmarks.pages rewrites figures, CONTRIBUTING.md describes the rest"
        raise UserError(f"{left} differences; {fix}")


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


if __name__ == "__main__":
    start(main, Settings, __doc__)
