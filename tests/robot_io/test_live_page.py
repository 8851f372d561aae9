"""The live page: requests that it answers and refuses, and its look in headless Chromium."""

import http.client
import json
import shutil
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest

from configs.composing import as_dict, load_config
from robot_io.live_page import LivePage
from robot_io.safety import Reaction, SafetyLayer, SafetyLimits
from tinyvla.arms.episode import Episode
from tinyvla.errors import UserError

POSE = np.array([10.0, -60.0, 45.0, 30.0, -20.0, 80.0])


@pytest.fixture(scope="module")
def layer():
    return SafetyLayer(
        SafetyLimits.decode(as_dict(load_config("deploy", ["checkpoint=none"]).safety) | {"model": None})
    )


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def tick(due, reaction=Reaction.FOLLOW, colour=(200, 40, 10)):
    image = np.full((480, 640, 3), colour, np.uint8)
    observation = {"laptop": image, "phone": np.full((720, 1280, 3), 90, np.uint8)}
    poses = {"position": POSE, "sent": POSE + 3, "policy_pose": POSE + 8}
    return SimpleNamespace(due=due, observation=observation, intervention=False, reaction=reaction, **poses)


def get(port, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def wait_for_state(port, is_there):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        state = json.loads(get(port, "/state")[2])
        if state and is_there(state):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_state_and_images_reach_the_page(layer, port):
    import cv2

    with LivePage(layer, ("laptop", "phone"), port) as page:
        assert get(port, "/image/0")[0] == 404
        page.begin(Episode("pick up the cube", seconds=20))
        page.observe(tick(1.0))
        state = wait_for_state(port, lambda state: state["ticks"] == 1)
        assert state["episode"]["instruction"] == "pick up the cube"
        assert (state["position"], state["reaction"]) == (POSE.tolist(), "FOLLOW")
        status, headers, content = get(port, "/image/0?7")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (480, 640, 3)
        assert np.abs(image[240, 320].astype(int) - (10, 40, 200)).max() < 12
        assert cv2.imdecode(np.frombuffer(get(port, "/image/1")[2], np.uint8), 1).shape == (360, 640, 3)
        page.observe(tick(1.02, Reaction.HOLD))  # within a tenth of a second: left out
        page.observe(tick(2.0, Reaction.HOLD))
        assert wait_for_state(port, lambda state: state["ticks"] == 3)["reaction"] == "HOLD"
        page.end({"instruction": "pick up the cube", "success": True, "seconds": 1.0, "ended": "done"})
        state = wait_for_state(port, lambda state: not state["running"])
        assert state["position"] == POSE.tolist()
        assert [result["success"] for result in state["results"]] == [True]
    with pytest.raises(ConnectionRefusedError):
        get(port, "/state")


def test_another_site_and_other_paths_are_refused(layer, port):
    with LivePage(layer, ("laptop",), port):
        assert get(port, "/")[0] == 200
        assert "default-src 'none'" in get(port, "/")[1]["Content-Security-Policy"]
        assert get(port, "/state", host="evil.example")[0] == 403
        for path in ("/../view.py", "/image/../../view.py", "/image/9", "/image/-1", "/image/", "/server.py"):
            assert get(port, path)[0] == 404, path


def test_ports_that_cannot_be_used(layer, port):
    with pytest.raises(UserError, match="live_page=80 is not a port"):
        LivePage(layer, (), 80)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(UserError, match=rf"the port {port} cannot be used .* choose another live_page"):
            LivePage(layer, (), port)


def test_a_run_does_not_wait_for_its_page(layer, port):
    page = LivePage(layer, ("laptop",), port)
    page._process.kill()
    page._process.wait()
    page.begin(Episode("go"))
    for number in range(50):
        page.observe(tick(float(number)))
    page.end({"success": None})
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(layer, port, width, tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (dependency group dev)")
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("no Chromium with chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"):
        options.add_argument(flag)
    with LivePage(layer, ("laptop", "phone"), port) as page:
        browser = webdriver.Chrome(options=options, service=Service(chromedriver))
        try:
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            browser.get(page.address)
            page.begin(Episode("pick up the cube and lift it", seconds=20))
            page.observe(tick(1.0))
            wait = WebDriverWait(browser, 20)
            wait.until(lambda _: browser.find_element("id", "reaction").text == "following")
            wait.until(lambda _: browser.execute_script("return document.images[1].naturalWidth") == 640)
            assert browser.find_element("id", "instruction").text == "pick up the cube and lift it"
            rows = browser.find_elements("css selector", ".joint")
            assert [row.find_element("tag name", "output").text for row in rows] == [f"{value:.1f}" for value in POSE]
            mark = rows[0].find_element("css selector", ".mark.is").rect
            track = rows[0].find_element("css selector", ".track").rect
            share = (mark["x"] + mark["width"] / 2 - track["x"]) / track["width"]
            low, high = layer.limits.joints["shoulder_pan"].min, layer.limits.joints["shoulder_pan"].max
            assert share == pytest.approx((POSE[0] - low) / (high - low), abs=0.02)
            page.observe(tick(2.0, Reaction.HOLD))
            wait.until(lambda _: browser.find_element("id", "reaction").text == "holding")
            page.end({"success": False, "seconds": 2.0, "ended": "time"})
            wait.until(lambda _: "failure" in browser.find_element("id", "results").text)
            assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
            browser.save_screenshot(str(tmp_path / "page.png"))
            assert not [entry for entry in browser.get_log("browser") if "Content Security" in entry["message"]]
        finally:
            browser.quit()
