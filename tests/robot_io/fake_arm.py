"""An arm without physics, and a policy without a network, for tests of what runs between them."""

from types import SimpleNamespace

import numpy as np

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FOLDED = (0.0, -95.0, 90.0, 60.0, 0.0, 5.0)
LOW, HIGH = (-90.0, -90.0, -80.0, -90.0, -90.0, 0.0), (90.0, 60.0, 90.0, 90.0, 90.0, 100.0)


class FakeArm:
    """Goes at once where it is sent. `fail_after` so many readings its cable is pulled."""

    name = "fake_arm"

    def __init__(self, size=16, cameras=("front",), fail_after=None):
        self.config = SimpleNamespace(port=None)
        self.observation_features = {f"{joint}.pos": float for joint in JOINTS} | dict.fromkeys(
            cameras, (size, size, 3)
        )
        self.pose = dict(zip([f"{joint}.pos" for joint in JOINTS], FOLDED, strict=True))
        self.sent, self.connected, self.fail_after = [], False, fail_after
        self._image = np.zeros((size, size, 3), np.uint8)
        self._cameras = cameras

    def connect(self, calibrate):
        self.connected = True

    def disconnect(self):
        self.connected = False

    def get_observation(self):
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise ConnectionError("no status packet")
        return self.pose | {camera: self._image.copy() for camera in self._cameras}

    def send_action(self, action):
        self.sent.append(list(action.values()))
        self.pose = dict(action)
        return action


class FakeRunner:
    """Wants one pose after the other, each `step` further from where an episode began."""

    def __init__(self, size=16, cameras=("front",), low=LOW, high=HIGH, step=0.2, numbers=6):
        feature = SimpleNamespace(shape=(numbers,))
        images = {f"observation.images.{camera}": SimpleNamespace(shape=(3, size, size)) for camera in cameras}
        config = SimpleNamespace(image_features=images, robot_state_feature=feature, action_feature=feature)
        self.policy = SimpleNamespace(config=config)
        self.cameras = self.recorded_cameras = dict.fromkeys(cameras, (size, size))
        self.image_fit, self.fps = "crop", None
        statistics = {"min": np.array(low), "max": np.array(high)}
        self.preprocessor = SimpleNamespace(steps=[SimpleNamespace(stats={"observation.state": statistics})])
        self.postprocessor = SimpleNamespace(steps=[SimpleNamespace(), SimpleNamespace(stats={"action": statistics})])
        self.observations, self.seeds, self.held, self.needs_observation = [], [], 0, True
        self._step = step

    def reset(self, seed):
        self.seeds.append(seed)
        self._pose = None

    def act(self, observation):
        self.observations.append(observation)
        if self._pose is None:
            self._pose = np.array(observation["observation.state"], dtype=float)
        self._pose = self._pose + self._step
        return self._pose
