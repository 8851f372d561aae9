"""Figures of the pages: they agree with the results, and a digit that is changed by hand in either is noticed."""

import json
import shutil

import pytest
import yaml
from PIL import Image

from benchmarks import page_tables, pages, result_files
from benchmarks.figures import show_figure
from benchmarks.page_numbers import find_numbers, sort_numbers
from benchmarks.pages import Settings, main, update_page
from benchmarks.result_files import as_json, read_result, write_result
from tinyvla.errors import UserError

RESULT = {
    "ticks": 12345,
    "share": 0.875,
    "ci95": [0.19, 0.436],
    "runs": [{"name": "quiet", "late": 99, "change": [-0.5, 1.9]}, {"name": "busy", "late": 1232}],
    "timing": {"p99_ms": 1.34},
}
PAGE = """# A page

Of <!--trial ticks = {:,}-->12,345<!--/--> ticks <!--trial runs/name=quiet/late-->99<!--/--> were late
at a rate of 30 Hz.

<!--table late-->

| run | late |
| --- | --- |
| quiet | 99 |
| busy | 1232 |

<!--/-->

## Settings

A tick is late from 3.3 ms on.
"""
ALLOWED = {"page.md": {"## Settings": "settings", "30 Hz": "setting"}}


def late_table():
    rows = read_result("trial")["runs"]
    return page_tables.markdown(rows, {"name": "run", "late": "late"})


def draw_dots(result, file):
    Image.new("L", (result["runs"][0]["late"], 8)).save(file)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with one page, one result, its table and its plot."""
    results = tmp_path / "benchmarks/results"
    results.mkdir(parents=True)
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "allowed.yaml").write_text(yaml.safe_dump(ALLOWED))
    for module in (result_files, pages):
        monkeypatch.setattr(module, "RESULTS", results)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", [tmp_path / "page.md"])
    monkeypatch.setattr(pages, "ALLOWED", tmp_path / "allowed.yaml")
    monkeypatch.setitem(page_tables.TABLES, "late", late_table)
    monkeypatch.setitem(page_tables.PLOTS, "trial", draw_dots)
    write_result(results / "trial.json", RESULT, "a machine; 99 of 12,345\n")
    draw_dots(RESULT, results / "trial.png")
    pages.draw("trial")
    return tmp_path


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def differences(capsys):
    with pytest.raises(UserError):
        main(Settings(check=True))
    return capsys.readouterr().err.splitlines()


def test_pages_agree_with_the_results(capsys):
    main(Settings(check=True))
    assert ", 0 neither" in capsys.readouterr().out


def test_a_page_that_agrees_is_counted(folder, capsys):
    main(Settings(check=True))
    assert capsys.readouterr().out == "1 pages: 4 numbers from results, 2 allowed, 0 neither\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("12,345", "12,346", "page.md:3: '12,346' is '12,345' in the result (trial ticks = {:,})"),
        ("-->99<", "--><", "page.md:3: '' is '99' in the result (trial runs/name=quiet/late)"),
        (
            "| busy | 1232 |",
            "| busy | 1233 |",
            "page.md:6: '| busy | 1233 |' is '| busy | 1232 |' in the result (late)",
        ),
    ],
)
def test_a_digit_changed_in_a_page_is_a_line_and_comes_back(folder, capsys, old, new, line):
    replace(folder / "page.md", old, new)
    changed = (folder / "page.md").read_text()
    assert differences(capsys) == [line]
    assert (folder / "page.md").read_text() == changed
    main(Settings())
    assert (folder / "page.md").read_text() == PAGE


@pytest.mark.parametrize(("name", "old", "new"), [("trial.json", "1.34", "1.35"), ("trial.md", "12,345", "12,344")])
def test_a_digit_changed_in_a_result_is_a_line(folder, capsys, name, old, new):
    replace(folder / "benchmarks/results" / name, old, new)
    (line,) = differences(capsys)
    assert line.startswith("benchmarks/results/trial.json: is not as its benchmark wrote it")


def test_a_new_result_changes_the_page_and_the_plot(folder, capsys):
    result = json.loads(json.dumps(RESULT))
    result["runs"][0]["late"] = 98
    write_result(folder / "benchmarks/results/trial.json", result)
    assert [line.partition(": ")[0] for line in differences(capsys)] == [
        "page.md:3", "page.md:6", "benchmarks/results/trial.png",
    ]  # fmt: skip
    main(Settings())
    assert (folder / "page.md").read_text() == PAGE.replace("99", "98")
    with Image.open(folder / "benchmarks/results/trial.png") as image:
        assert image.size == (98, 8)
    main(Settings(check=True))


def test_a_result_of_an_older_version_is_sealed(folder, capsys):
    file = folder / "benchmarks/results/trial.json"
    file.write_text(json.dumps(RESULT, indent=1))
    line, *_ = differences(capsys)
    assert "pages seal=[trial]" in line
    main(Settings(seal=["trial"]))
    main(Settings(check=True))
    assert {key: value for key, value in json.loads(file.read_text()).items() if key != "checksum"} == RESULT


def test_a_plot_without_a_function_is_a_line(folder, capsys):
    results = folder / "benchmarks/results"
    shutil.copy(results / "trial.png", results / "map.png")
    (line,) = differences(capsys)
    assert line.startswith("benchmarks/results/map.png: no plot of benchmarks/page_tables.py draws it")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("trail ticks", "there is no result trail.json"),
        ("trial tiks", "there is no 'tiks' in trial tiks; did you mean ticks"),
        ("trial runs/name=noisy/late", "there is no item 'name=noisy'"),
        ("trial ticks/first", "'first' in trial ticks/first goes on behind a single value"),
        ("trial timing = {p50_ms}", "'{p50_ms}' does not fit trial timing (KeyError"),
        ("trial runs = {:.1f}", "'{:.1f}' does not fit trial runs (TypeError"),
    ],
)
def test_a_comment_that_names_nothing_is_a_line(folder, capsys, source, fault):
    replace(folder / "page.md", "trial ticks = {:,}", source)
    (line,) = differences(capsys)
    assert line.startswith(f"page.md:3: {fault}")


def test_comments_in_a_wrong_place_are_a_line(folder):
    figure = "<!--trial ticks-->12345"
    text = f"a\n{figure}<!--/--> ticks\n\n- {figure}<!--/-->\n\nb {figure}\n"
    lines = [(place, fault) for place, fault, _ in update_page("page.md", text, {"12345": "setting"}).differences]
    assert [place for place, _ in lines] == ["page.md:2", "page.md:4", "page.md:6"]
    assert [fault.partition(" ")[0] for _, fault in lines] == ["a", "a", "no"]
    (fault,) = update_page("page.md", "<!--table lat-->\n\n| a |\n\n<!--/-->\n", {}).differences
    assert "did you mean late" in fault.text


def test_a_number_without_a_source_is_a_line(folder, capsys):
    replace(folder / "page.md", "at a rate of 30 Hz", "at a rate of 31 Hz")
    assert differences(capsys) == [
        "page.md:4: 31 is neither from a result nor in allowed.yaml",
        "allowed.yaml: page.md does not have '30 Hz'; delete the line",
    ]


def test_a_heading_allows_its_section_alone():
    text = "# Page 7\n\n1 m\n\n## Limits\n\n2 m\n\n### Of torque\n\n3 m\n\n## Figures\n\n4 m, 5 m\n"
    numbers = sort_numbers(text, {"## Limits": "settings", "5 m": "setting"})
    assert [number.text for number in numbers.allowed] == ["2", "3", "5"]
    assert [number.text for number in numbers.untraced] == ["7", "1", "4"]


def test_names_code_and_links_have_no_numbers():
    text = """# 2. SO-101, MT50, 640x480, int8 and a ResNet-18

1. See [arXiv 2409.12514](https://arxiv.org/abs/2409.12514) of 2026-11-26, version 0.6.1; exit code 2, 95% interval.

```bash
python train.py seed=3
```

Set `seed=4` to 1,000.5 or −3.5 of 8/20 (4%).
"""
    assert [number.text for number in find_numbers(text)] == ["1,000.5", "3.5", "8", "20", "4"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("trial ticks", "12345"),
        ("trial = {ticks:,} with {share:.1%} ({ci95:.0%})", "12,345 with 87.5% (19–44%)"),
        ("trial runs/0/change = {:.1f}", "−0.5 to 1.9"),
        ("trial runs/name=busy,late=1232/name", "busy"),
    ],
)
def test_figures_are_formatted(folder, source, text):
    assert show_figure(source) == text


def test_an_item_of_a_list_takes_a_line():
    rows = [{"name": "a" * 90, "n": n, "all": [1, [2]]} for n in range(3)]
    value = {"rows": rows, "long": list(range(99)), "empty": {}}
    text = as_json(value)
    assert json.loads(text) == value
    assert len(text.splitlines()) == 3 + 2 + 2 + 2
