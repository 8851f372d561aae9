"""A front-end by itself: python perceive.py frontend=tinysam frontend.tinysam.checkpoint=... source=image.png."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict


@app("perceive")
def main(cfg: DictConfig) -> None:
    import imageio.v3 as imageio

    from envs.rollout import write_video
    from policies.tinyvla.frontends import make_frontend
    from robot_io.image_sources import is_video, read_images
    from tinyvla.errors import UserError
    from tinyvla.files import write_whole
    from tinyvla.frontends import RgbImage, find_in_images

    frontends, source, moving = as_dict(cfg.frontend), str(cfg.source), is_video(str(cfg.source))
    if len(frontends) != 1:
        raise UserError("give one front-end, as in frontend=tinysam")
    frontend = make_frontend(*next(iter(frontends.items())))
    if source == "sim":
        from envs.scenes import open_labelled_images

        images = iter([open_labelled_images("table", "test", 1, seed=cfg.seed).images[0]])
    else:
        images = read_images(source, cfg.frames)
    records: list[Any] = []

    def annotate() -> Iterator[RgbImage]:
        for findings in find_in_images(frontend, images, as_dict(cfg.request)):
            records.append(findings.records)
            yield findings.image

    output = Path(cfg.output).with_suffix(".mp4" if moving else Path(cfg.output).suffix)
    output.parent.mkdir(parents=True, exist_ok=True)
    annotated = annotate()
    if (first := next(annotated, None)) is None:
        raise UserError(f"{source} has shown no image; use another source, and frames=1 or more")
    if moving:
        write_video(output, chain([first], annotated))
    else:
        imageio.imwrite(output, first)
    write_whole(output.with_suffix(".json"), json.dumps(records if moving else records[0], indent=1))
    for record in records[-1]:
        print(json.dumps(record))
    print(output)


if __name__ == "__main__":
    main()
