from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[DataType]
    UINT8: _ClassVar[DataType]
    FLOAT32: _ClassVar[DataType]
UNKNOWN: DataType
UINT8: DataType
FLOAT32: DataType

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("protocol", "checkpoint")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    checkpoint: str
    def __init__(self, protocol: _Optional[int] = ..., checkpoint: _Optional[str] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "shape", "names", "statistics", "recorded")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    statistics: _containers.RepeatedCompositeFieldContainer[Statistic]
    recorded: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., names: _Optional[_Iterable[str]] = ..., statistics: _Optional[_Iterable[_Union[Statistic, _Mapping]]] = ..., recorded: _Optional[_Iterable[int]] = ...) -> None: ...

class Statistic(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class OpenAnswer(_message.Message):
    __slots__ = ("protocol", "session", "inputs", "action", "chunk_size", "observation_steps", "execution_steps", "guided", "image_fit", "fps")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIT_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    session: str
    inputs: _containers.RepeatedCompositeFieldContainer[Feature]
    action: Feature
    chunk_size: int
    observation_steps: int
    execution_steps: int
    guided: bool
    image_fit: str
    fps: float
    def __init__(self, protocol: _Optional[int] = ..., session: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., action: _Optional[_Union[Feature, _Mapping]] = ..., chunk_size: _Optional[int] = ..., observation_steps: _Optional[int] = ..., execution_steps: _Optional[int] = ..., guided: bool = ..., image_fit: _Optional[str] = ..., fps: _Optional[float] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("tensors", "task")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    task: str
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., task: _Optional[str] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("session", "sequence", "step", "observations", "previous", "delay", "seed")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    session: str
    sequence: int
    step: int
    observations: _containers.RepeatedCompositeFieldContainer[Observation]
    previous: Tensor
    delay: int
    seed: int
    def __init__(self, session: _Optional[str] = ..., sequence: _Optional[int] = ..., step: _Optional[int] = ..., observations: _Optional[_Iterable[_Union[Observation, _Mapping]]] = ..., previous: _Optional[_Union[Tensor, _Mapping]] = ..., delay: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class PredictAnswer(_message.Message):
    __slots__ = ("sequence", "step", "normalised", "actions")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NORMALISED_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    step: int
    normalised: Tensor
    actions: Tensor
    def __init__(self, sequence: _Optional[int] = ..., step: _Optional[int] = ..., normalised: _Optional[_Union[Tensor, _Mapping]] = ..., actions: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class CloseAnswer(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
