"""The report page in headless Chromium, at desktop and phone width: videos play, figures are those of eval.json."""

import json
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
from omegaconf import OmegaConf

from envs.evaluation import Job, summarise
from envs.report import write_report
from envs.report.figures import interval, percent
from envs.rollout import Rollout

pytestmark = pytest.mark.slow

TASKS = ("button-press-topdown-v3", "drawer-open-v3", "faucet-open-v3", "faucet-close-v3")
EPISODES, WRONG = 20, 2
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run folder as train.py leaves it: four tasks, wrong instructions, curves and videos of two tasks."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    rollouts = {}
    for number, task in enumerate(TASKS):
        for other in TASKS:
            for episode in range(EPISODES if other == task else WRONG):
                success = other == task and episode < EPISODES - 3 * number
                rollouts[Job(task, other, episode)] = Rollout(episode, success, 60 + episode, rng.uniform(2, 4, 60))
    result = summarise(rollouts) | {"split": "evaluation", "seed": 0, "machine": "AMD EPYC, 2 workers"}
    (folder / "eval.json").write_text(json.dumps(result))
    config = {
        "command": "python train.py policy=tinyvla env=metaworld 'env.tasks=[default]' seed=0",
        "env": {"name": "metaworld"},
        "policy": {"type": "tinyvla"},
    }
    OmegaConf.save(config, folder / "config.yaml")
    records = [
        {"step": step, "train/loss": float(np.exp(-step / 500) + 0.05), "train/lr": 1e-3, "train/samples_per_s": 120.0}
        for step in range(10, 2510, 10)
    ]
    records += [
        {"step": step, "validation/success_rate": step / 3000}
        | {f"validation/success_rate/{task}": step / (2600 + 300 * number) for number, task in enumerate(TASKS)}
        for step in (1250, 2500)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    (folder / "videos").mkdir()
    for task in TASKS[:2]:
        for name in (f"{task}-000-success", f"{task}-told-{TASKS[2]}-001-failure"):
            write_video(folder / "videos" / f"{name}.mp4")
    write_report(folder)
    return folder


def write_video(path):
    """Write three seconds of a square that crosses the image."""
    frames = np.full((60, 128, 128, 3), 60, np.uint8)
    for number, frame in enumerate(frames):
        frame[50:80, number : number + 30] = (230, 120, 40)
    iio.imwrite(path, frames, fps=20, codec="libx264")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium from the system, through chromedriver."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (dependency group dev)")
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no Chromium with chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(params=WIDTHS)
def report(request, browser, run_dir):
    """The report, opened at a width."""
    width, height = WIDTHS[request.param]
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": request.param == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get((run_dir / "report.html").as_uri())
    assert browser.execute_script("return innerWidth") == width
    return browser


def elements(browser, selector):
    return browser.find_elements("css selector", selector)


def test_a_clicked_video_plays(report):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    videos = elements(report, "video")
    assert len(videos) == 4
    video = videos[0]
    report.execute_script("arguments[0].scrollIntoView({block: 'center'})", video)
    WebDriverWait(report, 20).until(lambda _: video.get_property("readyState") >= 1)
    assert video.get_property("videoWidth") == 128
    assert video.get_property("paused")
    ActionChains(report).move_to_element(video).click().perform()
    WebDriverWait(report, 20).until(lambda _: video.get_property("currentTime") > 0.5)
    assert not video.get_property("paused")
    assert video.get_property("error") is None


def test_the_success_table_shows_eval_json(report, run_dir):
    result = json.loads((run_dir / "eval.json").read_text())
    rows = {
        row.find_element("css selector", "th").text: [cell.text for cell in row.find_elements("css selector", "td")]
        for row in elements(report, "#tasks tbody tr")
    }
    expected = {
        task: [
            f"{figures['successes']}/{figures['episodes']}",
            percent(figures["success_rate"]),
            interval(figures["ci95"]),
        ]
        for task, figures in {**result["tasks"], "all tasks": result}.items()
    }
    assert {task: cells[:3] for task, cells in rows.items()} == expected
    assert elements(report, ".headline strong")[0].text == percent(result["success_rate"])


def test_the_page_does_not_scroll_sideways(report):
    assert report.execute_script("return document.documentElement.scrollWidth") <= report.execute_script(
        "return innerWidth"
    )
    width = report.execute_script("return innerWidth")
    for element in elements(report, "video, .card, pre, .facts, .tiles > div, figure, h1, h2"):
        box = element.rect
        assert box["x"] >= 0, element.get_attribute("outerHTML")[:200]
        assert box["x"] + box["width"] <= width, element.get_attribute("outerHTML")[:200]


def test_charts_are_readable(report):
    charts = elements(report, ".chart svg")
    assert len(charts) == 5
    for chart in charts:
        sizes = report.execute_script(
            "return [...arguments[0].querySelectorAll('text')].map(text => text.getBoundingClientRect().height)", chart
        )
        assert min(sizes) >= 8, chart.get_attribute("aria-label")
