"""Messages as objects of this project: written from them, and read back with every number, name and size checked."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..image_size import FITS
from . import policy_service_pb2 as pb
from .wire import MAX_REQUEST, PROTOCOL, MessageError, printable

IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
MAX_SIDE, MAX_CAMERAS, MAX_VALUES, MAX_CHUNK, MAX_OBSERVATIONS, MAX_FPS = 4096, 16, 1024, 1024, 64, 1000
_CAMERA = re.compile(r"observation\.images\.[\w.-]{1,64}")
_STATISTICS = ("min", "max", "mean", "std")
_DTYPES: dict[int, np.dtype[Any]] = {pb.UINT8: np.dtype("u1"), pb.FLOAT32: np.dtype("<f4")}
_FIX = "use the same version of this program on both machines"


@dataclass(frozen=True)
class Feature:
    """An input or the output of a policy.

    Args:
        shape: (channels, height, width) of a camera, (n,) of the state and the action.
        names: of the n values; empty: not known.
        statistics: of the training data: (n,) values by `min`, `max`, `mean`, `std`, as far as known.
        recorded: height and width of a camera's frames in the training data; empty: those of `shape`.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    recorded: tuple[int, ...] = ()


@dataclass(frozen=True)
class PolicyDescription:
    """The facts about a policy that its client needs.

    Args:
        inputs: cameras and observation.state by name.
        action: of the output.
        chunk_size: actions per chunk.
        observation_steps: observations that a prediction reads.
        execution_steps: actions of a chunk that are executed before the next one; None: as the client likes.
        guided: it can continue the previous chunk.
        image_fit: how images of any size become those of the inputs, one of `image_size.FITS`; empty: the training
            data had images of these sizes.
        fps: frames per second of the training data; 0: not known.
    """

    inputs: Mapping[str, Feature]
    action: Feature
    chunk_size: int
    observation_steps: int
    execution_steps: int | None
    guided: bool
    image_fit: str = ""
    fps: float = 0.0

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """(chunk_size, A)."""
        return self.chunk_size, self.action.shape[0]


# --- tensors ---


def write_tensor(name: str, array: np.ndarray) -> pb.Tensor:
    """Tensor of an array; all but uint8 becomes float32."""
    is_bytes = array.dtype == np.uint8
    dtype = pb.UINT8 if is_bytes else pb.FLOAT32
    data = np.ascontiguousarray(array, _DTYPES[dtype]).tobytes()
    return pb.Tensor(name=name, dtype=dtype, shape=array.shape, data=data)


def read_tensor(tensor: pb.Tensor, name: str, shape: Sequence[int | None], dtypes: Sequence[int]) -> np.ndarray:
    """Array of a tensor, which owns its memory.

    Args:
        name: that it must have.
        shape: that it must have; None: any size from 1.
        dtypes: of `DataType`, that it may have.

    Raises MessageError for any other tensor, for data of another size, and for numbers that are not finite.
    """
    if tensor.name != name:
        raise MessageError(f"the tensor {printable(tensor.name, 80)!r} is where {name} belongs; {_FIX}")
    if tensor.dtype not in dtypes:
        names = " or ".join(_DTYPES[dtype].name for dtype in dtypes)
        raise MessageError(f"{name} has another type; send {names}")
    sizes = tuple(tensor.shape[:5])
    fits = len(sizes) == len(shape) and all(
        size == expected or (expected is None and size >= 1) for size, expected in zip(sizes, shape, strict=True)
    )
    if not fits:
        needed = ", ".join("n" if size is None else str(size) for size in shape)
        raise MessageError(f"{name} has the shape ({', '.join(map(str, sizes))}) and must have ({needed})")
    dtype = _DTYPES[tensor.dtype]
    if len(tensor.data) != math.prod(sizes) * dtype.itemsize:
        raise MessageError(f"{name} has {len(tensor.data)} bytes, which is not the size of its shape; {_FIX}")
    array = np.frombuffer(tensor.data, dtype).reshape(sizes).copy()
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise MessageError(f"{name} holds a number that is not finite; check the sensor or the policy it comes from")
    return array


# --- observations and chunks ---


def write_observation(observation: Mapping[str, Any], description: PolicyDescription) -> pb.Observation:
    """Message of an unbatched observation, as runners get it."""
    tensors = [write_tensor(name, np.asarray(observation[name])) for name in description.inputs]
    return pb.Observation(tensors=tensors, task=observation["task"])


def read_observations(messages: Sequence[pb.Observation], description: PolicyDescription) -> list[dict[str, Any]]:
    """Unbatched observations, oldest first. Raises MessageError unless they are those that the policy needs."""
    if not 1 <= len(messages) <= description.observation_steps:
        raise MessageError(f"there are {len(messages)} observations; send 1 to {description.observation_steps}")
    return [_read_observation(message, description) for message in messages]


def _read_observation(message: pb.Observation, description: PolicyDescription) -> dict[str, Any]:
    if len(message.tensors) != len(description.inputs):
        raise MessageError(f"an observation has {len(message.tensors)} tensors; send {', '.join(description.inputs)}")
    observation: dict[str, Any] = {"task": message.task}
    for tensor, (name, feature) in zip(message.tensors, description.inputs.items(), strict=True):
        if name == STATE:
            observation[name] = read_tensor(tensor, name, feature.shape, (pb.FLOAT32,))
        else:
            channels, height, width = feature.shape
            observation[name] = read_tensor(tensor, name, (height, width, channels), (pb.UINT8, pb.FLOAT32))
    return observation


def read_previous(request: pb.PredictRequest, description: PolicyDescription) -> np.ndarray | None:
    """Normalised actions (T, A) that the next chunk continues; None: it continues none. Raises MessageError."""
    chunk_size, action_size = description.chunk_shape
    if request.delay > chunk_size:
        raise MessageError(f"delay is {request.delay} and at most {chunk_size}, the size of a chunk")
    if not request.HasField("previous"):
        return None
    if not description.guided:
        raise MessageError("this policy cannot continue a chunk; send none")
    previous = read_tensor(request.previous, "previous", (None, action_size), (pb.FLOAT32,))
    if len(previous) > chunk_size:
        raise MessageError(f"previous has {len(previous)} actions and at most {chunk_size}, the size of a chunk")
    return previous


def read_chunk(
    answer: pb.PredictAnswer, sequence: int, step: int, description: PolicyDescription
) -> tuple[np.ndarray, np.ndarray]:
    """Chunk of an answer: normalised actions and actions, float32 (chunk_size, A) each.

    Raises MessageError for an answer to another request, and for a chunk that this policy cannot return.
    """
    if (answer.sequence, answer.step) != (sequence, step):
        raise MessageError(
            f"it answers request {answer.sequence} of step {answer.step}, not {sequence} of step {step}; "
            "connect again, and use one connection per arm"
        )
    shape, dtypes = description.chunk_shape, (pb.FLOAT32,)
    return (
        read_tensor(answer.normalised, "normalised", shape, dtypes),
        read_tensor(answer.actions, "actions", shape, dtypes),
    )


# --- descriptions ---


def write_description(description: PolicyDescription, session: str) -> pb.OpenAnswer:
    """Answer to a client that opens a checkpoint."""
    return pb.OpenAnswer(
        protocol=PROTOCOL,
        session=session,
        inputs=[_write_feature(name, feature) for name, feature in description.inputs.items()],
        action=_write_feature(ACTION, description.action),
        chunk_size=description.chunk_size,
        observation_steps=description.observation_steps,
        execution_steps=description.execution_steps or 0,
        guided=description.guided,
        image_fit=description.image_fit,
        fps=description.fps,
    )


def read_description(answer: pb.OpenAnswer) -> PolicyDescription:
    """Description of a policy. Raises MessageError for what no policy of this stack has."""
    if answer.protocol != PROTOCOL:
        raise MessageError(f"it speaks version {answer.protocol} of the protocol, not {PROTOCOL}; {_FIX}")
    if not re.fullmatch(r"[0-9a-f]{32}", answer.session):
        raise MessageError(f"its session is not a session's id; {_FIX}")
    inputs = {message.name: _read_feature(message) for message in answer.inputs}
    cameras = [name for name in inputs if name != STATE]
    if STATE not in inputs or len(inputs) != len(answer.inputs) or not 1 <= len(cameras) <= MAX_CAMERAS:
        raise MessageError(f"its policy has no cameras and state as inputs; {_FIX}")
    if answer.action.name != ACTION:
        raise MessageError(f"its policy has no action; {_FIX}")
    for name, value, low, high in (
        ("chunk_size", answer.chunk_size, 1, MAX_CHUNK),
        ("observation_steps", answer.observation_steps, 1, MAX_OBSERVATIONS),
        ("execution_steps", answer.execution_steps, 0, MAX_CHUNK),
    ):
        if not low <= value <= high:
            raise MessageError(f"its policy has {name}={value}; it lies between {low} and {high}; {_FIX}")
    if answer.image_fit not in ("", *FITS):
        raise MessageError(f"its policy fits images by {printable(answer.image_fit, 80)!r}; {_FIX}")
    if not 0 <= answer.fps <= MAX_FPS:
        raise MessageError(f"its policy has fps={answer.fps:g}; it lies between 0 and {MAX_FPS}; {_FIX}")
    values = answer.observation_steps * sum(math.prod(feature.shape) for feature in inputs.values())
    if values > MAX_REQUEST:
        raise MessageError(f"its policy reads {values / 1e6:.0f} MB per chunk, more than a request holds; run it here")
    return PolicyDescription(
        inputs,
        _read_feature(answer.action),
        answer.chunk_size,
        answer.observation_steps,
        answer.execution_steps or None,
        answer.guided,
        answer.image_fit,
        answer.fps,
    )


def _write_feature(name: str, feature: Feature) -> pb.Feature:
    statistics = [pb.Statistic(name=key, values=values) for key, values in feature.statistics.items()]
    return pb.Feature(
        name=name, shape=feature.shape, names=feature.names, statistics=statistics, recorded=feature.recorded
    )


def _read_feature(message: pb.Feature) -> Feature:
    shape, names = tuple(message.shape[:4]), tuple(message.names)
    if message.name in (STATE, ACTION):
        is_suitable = len(shape) == 1 and 1 <= shape[0] <= MAX_VALUES
    else:
        is_camera = _CAMERA.fullmatch(message.name) is not None and len(shape) == 3
        is_suitable = is_camera and shape[0] in (1, 3, 4) and all(1 <= side <= MAX_SIDE for side in shape[1:])
    if not is_suitable:
        raise MessageError(f"its policy has the feature {printable(message.name, 80)!r} of shape {shape}; {_FIX}")
    size = shape[0] if len(shape) == 1 else 0
    if names and (len(names) != size or any(name != printable(name, 100) for name in names)):
        raise MessageError(f"the names of {message.name} are not those of {size} values; {_FIX}")
    statistics = {entry.name: tuple(entry.values) for entry in message.statistics}
    for key, values in statistics.items():
        if key not in _STATISTICS or len(values) != size:
            raise MessageError(f"the statistics of {message.name} are not those of {size} values; {_FIX}")
    recorded = tuple(message.recorded[:3])
    if recorded and (size or len(recorded) != 2 or not all(1 <= side <= MAX_SIDE for side in recorded)):
        raise MessageError(f"{message.name} was recorded at {recorded}, which an image cannot have; {_FIX}")
    return Feature(shape, names, statistics, recorded)
