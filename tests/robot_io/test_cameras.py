"""The twin's cameras and video files, through LeRobot's Camera interface."""

import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pytest
from lerobot.cameras import make_cameras_from_configs

import envs.rendering  # noqa: F401 (chooses what MuJoCo draws with)
from robot_io.cameras import TwinCamera, TwinCameraConfig, VideoFileCamera, VideoFileCameraConfig
from robot_io.frames import FrameReader, FrameWriter
from robot_io.twin import TwinSettings, start_twin
from robot_io.twin.camera_rendering import CameraView
from tinyvla.errors import UserError

SIZE = {"width": 48, "height": 32}


@pytest.fixture(scope="module")
def twin():
    cameras = {"front": CameraView("front", fps=30, **SIZE), "hand": CameraView("wrist_cam", fps=30, **SIZE)}
    with start_twin(TwinSettings(cameras=cameras), in_thread=True) as control:
        yield control


@pytest.fixture
def camera(twin):
    twin.send("clear")
    with TwinCamera(TwinCameraConfig(folder=str(twin.folder), camera="front", fps=30, **SIZE)) as camera:
        yield camera


def test_frames_pass_between_processes(tmp_path):
    writer = FrameWriter(tmp_path / "c.frames", 4, 6)
    image = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    writer.write(image, 12.5)
    code = (
        "import sys; from pathlib import Path; from robot_io.frames import FrameReader\n"
        "frame = FrameReader(Path(sys.argv[1])).read(); print(frame.image.sum(), frame.stamp, frame.number)"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "c.frames"], capture_output=True, text=True)
    assert out.stdout.split() == [str(image.sum()), "12.5", "1"], out.stderr
    with pytest.raises(FileNotFoundError):
        FrameReader(tmp_path / "other.frames")


def test_a_camera_shows_what_the_arm_does(camera, twin):
    twin.send("hand middle")
    first = camera.read()
    assert (first.shape, first.dtype) == ((32, 48, 3), np.uint8)
    assert first.std() > 5
    deadline = time.monotonic() + 60
    while not twin.state()["hand_arrived"]:
        assert time.monotonic() < deadline
    camera.read()
    assert np.abs(camera.read().astype(int) - first).max() > 30
    twin.send("hand release")


def test_images_are_new_and_know_their_age(camera):
    stamps = []
    for _ in range(3):
        camera.async_read(timeout_ms=10_000)
        stamps.append(camera.latest_timestamp)
    assert stamps == sorted(set(stamps))
    assert 0 <= time.perf_counter() - stamps[-1] < 10
    camera.read_latest(max_age_ms=10_000)


def test_a_camera_that_stops_is_noticed(camera, twin):
    camera.read()
    twin.send("camera_stops front")
    time.sleep(0.3)
    camera.read_latest(max_age_ms=10_000)
    with pytest.raises(TimeoutError, match="nothing new for 300 ms"):
        camera.async_read(timeout_ms=300)
    with pytest.raises(TimeoutError, match="ms old; 100 ms are allowed"):
        camera.read_latest(max_age_ms=100)
    twin.send("clear")
    camera.async_read(timeout_ms=10_000)


def test_a_camera_that_repeats_looks_new_and_is_not(camera, twin):
    twin.send("camera_repeats front")
    camera.read()
    first = camera.read()
    twin.send("hand shoulder_pan=60")
    for _ in range(5):
        assert (camera.read() == first).all()
    twin.send("hand release")


def test_a_camera_whose_images_come_late_says_how_old_they_are(camera, twin):
    twin.send("camera_late front 0.4")
    camera.read()  # this image was on its way
    for _ in range(3):
        camera.read()
    assert time.perf_counter() - camera.latest_timestamp >= 0.4


def test_a_camera_that_no_twin_draws(twin):
    with pytest.raises(UserError, match=r"no twin draws the camera 'top' .*name it in robot\.cameras"):
        TwinCamera(TwinCameraConfig(folder=str(twin.folder), camera="top")).connect()
    with pytest.raises(UserError, match="the twin draws 'front' 48x32, not 64x64"):
        TwinCamera(TwinCameraConfig(folder=str(twin.folder), width=64, height=64)).connect()
    with pytest.raises(UserError, match="camera_stops does not strike 'top'; name one of front, hand"):
        twin.send("camera_stops top")


def test_lerobot_makes_both_by_their_types(twin, video):
    configs = {
        "front": TwinCameraConfig(folder=str(twin.folder), fps=30, **SIZE),
        "film": VideoFileCameraConfig(path=str(video), fps=10, **SIZE),
    }
    cameras = make_cameras_from_configs(configs)
    assert [type(camera) for camera in cameras.values()] == [TwinCamera, VideoFileCamera]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten images, each brighter than the one before, a second long."""
    path = tmp_path_factory.mktemp("video") / "film.mp4"
    images = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 64 * 64 * 3).reshape(10, 64, 64, 3)
    iio.imwrite(path, images, fps=10, codec="libx264")
    return path


def test_a_video_plays_in_real_time_and_begins_anew(video):
    with VideoFileCamera(VideoFileCameraConfig(path=str(video), **SIZE)) as camera:
        assert camera.fps == 10
        images = [camera.read() for _ in range(13)]
        assert images[0].shape == (32, 48, 3)
        brightness = [image.mean() for image in images]
        assert max(brightness) > 150
        assert min(np.diff(brightness)) < -100  # the end, and the beginning again
        assert 0 <= time.perf_counter() - camera.latest_timestamp < 10


def test_a_video_that_ends_grows_old(video):
    with VideoFileCamera(VideoFileCameraConfig(path=str(video), fps=100, loop=False)) as camera:
        time.sleep(0.3)
        with pytest.raises(TimeoutError, match=r"ended .* ms ago; 50 ms are allowed"):
            camera.read_latest(max_age_ms=50)


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "film.mp4").write_text("no film")
    for path in (tmp_path / "film.mp4", tmp_path / "none.mp4"):
        with pytest.raises(UserError, match="is not a readable video"):
            VideoFileCamera(VideoFileCameraConfig(path=str(path))).connect()


def test_an_installed_package_adds_a_camera_type(tmp_path, monkeypatch):
    from robot_io.arms import make_arm

    (tmp_path / "grey_camera.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from lerobot.cameras import CameraConfig\n"
        "from robot_io.cameras import VideoFileCamera\n"
        "@dataclass(kw_only=True)\n"
        "class GreyCameraConfig(CameraConfig):\n"
        "    level: int = 7\n"
        "class GreyCamera(VideoFileCamera):\n"
        "    def __init__(self, config):\n"
        "        self.config = config\n"
    )
    metadata = tmp_path / "grey_camera-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: grey-camera\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[tinyvla.cameras]\ngrey = grey_camera:GreyCameraConfig\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    cameras = {"front": {"type": "grey", "level": 9, "width": 8, "height": 6, "fps": 30}}
    robot = {"type": "so101_follower", "id": "x", "port": "/dev/none", "calibration_dir": str(tmp_path)}
    arm = make_arm(robot | {"cameras": cameras})
    assert (type(arm.cameras["front"]).__name__, arm.cameras["front"].config.level) == ("GreyCamera", 9)
