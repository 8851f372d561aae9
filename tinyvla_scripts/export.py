"""Export a trained policy: python export.py checkpoint=outputs/<run> format=onnx."""

from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from configs.composing import decode
from tinyvla.errors import UserError


@app("export")
def main(cfg: DictConfig) -> None:
    from policies import RunnerConfig
    from policies.export import export_policy

    if cfg.format != "onnx":
        raise UserError(f"unknown format '{cfg.format}'; use format=onnx, which OpenVINO reads as well")
    runner = decode(RunnerConfig, cfg.runner)
    folder = export_policy(Path(cfg.checkpoint), Path(cfg.export_dir), runner.scheduler, runner.inference_steps)
    for file in sorted(folder.iterdir()):
        print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
