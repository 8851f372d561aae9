"""Run by test_distributed.py under `torchrun`: train.py's loop with FSDP, on CPUs.

Accelerate shards on accelerators only, so its state is changed to report one. All later code runs as on GPUs.
"""

import contextlib
import signal
import sys
from pathlib import Path

import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from tiny import run_config

from configs.composing import as_dict
from policies.training import decode_run, train
from tinyvla.training import Tracker, make_accelerator

ROOT = Path(__file__).parents[2]


class StoppingTracker(Tracker):
    """Presses Ctrl-C once the figures of a step are written."""

    stop = 0

    def log(self, step, values):
        super().log(step, values)
        if step == self.stop:
            signal.raise_signal(signal.SIGINT)


def main() -> None:
    sharded, stop, pretrained, root, *settings = sys.argv[1:]
    cfg = run_config("tinyvla", *settings)
    cfg.policy.backbone = {"type": "llava_pythia", "pretrained": pretrained, "lora": {"r": 4}}
    accelerator = make_accelerator("cpu", False)
    if sharded == "sharded":
        options = yaml.safe_load((ROOT / "docs/fsdp.yaml").read_text())["fsdp_config"]
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=options["fsdp_version"],
            auto_wrap_policy=options["fsdp_auto_wrap_policy"].lower(),
            transformer_cls_names_to_wrap=options["fsdp_transformer_layer_cls_to_wrap"].split(","),
            reshard_after_forward=options["fsdp_reshard_after_forward"],
            cpu_ram_efficient_loading=options["fsdp_cpu_ram_efficient_loading"],
        )
        # Every AcceleratorState() that Accelerate makes on its way takes this over from the PartialState.
        PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
        assert accelerator.is_fsdp2
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(exist_ok=True)
    with StoppingTracker(run_dir, as_dict(cfg), enabled=accelerator.is_main_process) as tracker:
        tracker.stop = int(stop)
        with contextlib.suppress(KeyboardInterrupt):
            train(decode_run(as_dict(cfg)), Path(root), accelerator, tracker)


if __name__ == "__main__":
    main()
