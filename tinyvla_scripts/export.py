"""Export a trained policy: python export.py checkpoint=outputs/<run> format=onnx."""

from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from tinyvla.errors import UserError


@app("export")
def main(cfg: DictConfig) -> None:
    from policies.export import export_policy

    if cfg.format != "onnx":
        raise UserError(f"unknown format '{cfg.format}'; use format=onnx, which OpenVINO reads as well")
    folder = export_policy(
        Path(cfg.checkpoint),
        Path(cfg.export_dir),
        scheduler=cfg.runner.scheduler,
        inference_steps=cfg.runner.inference_steps,
    )
    for file in sorted(folder.iterdir()):
        print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
