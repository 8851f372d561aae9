"""Settings of the training loop."""

from dataclasses import dataclass, field

from ..augment import AugmentConfig
from ..ranges import RangeError, check_range

MAX_DECAY = 0.999999  # with 1 the average would stay at the first weights


@dataclass
class TrainerConfig:
    """Settings of a training run: the section `trainer`.

    Args:
        steps: optimizer steps.
        batch_size: samples per step; where a launcher starts several processes, per process.
        lr: peak learning rate.
        weight_decay: AdamW's.
        warmup_ratio: share of the steps with a rising rate; a cosine to zero follows.
        grad_clip: largest norm of the gradient; None: any.
        ema_decay: decay of the weights' exponential moving average, which validation and checkpoints use; 0: off.
        bf16: compute in bfloat16; "auto": where the machine does so fast.
        num_threads: of torch on a CPU; "auto": one per core.
        processes: that share every batch on a CPU, one core each, see `cpu_processes`; "auto": one per core.
        compile: compile the module with torch.compile, which takes minutes at the start.
        streaming: read the dataset as a stream, for data larger than the disk.
        validate_every: steps between validations; 0: never.
        validate_episodes: episodes per task of a validation.
        save_every: steps between checkpoints.
        log_every: steps between records of metrics.
        augment: augmentation of the images.
    """

    steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.0
    warmup_ratio: float = 0.05
    grad_clip: float | None = 1.0
    ema_decay: float = 0.999
    bf16: bool | str = "auto"
    num_threads: int | str = "auto"
    processes: int | str = 1
    compile: bool = False
    streaming: bool = False
    validate_every: int = 1250
    validate_episodes: int = 5
    save_every: int = 500
    log_every: int = 10
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        check_range(self, "steps", low=1, high=1 << 40)
        check_range(self, "batch_size", low=1, high=1 << 20)
        check_range(self, "num_threads", "processes", low=1, high=1 << 12)
        check_range(self, "lr", "grad_clip", above=0)
        check_range(self, "weight_decay", "validate_every", "validate_episodes", "save_every", "log_every", low=0)
        check_range(self, "warmup_ratio", low=0, high=1)
        check_range(self, "ema_decay", low=0, high=MAX_DECAY)
        for name in ("bf16", "num_threads", "processes"):
            if isinstance(value := getattr(self, name), str) and value != "auto":
                raise RangeError(name, value, "use auto, " + ("true or false" if name == "bf16" else "or 1 or more"))
