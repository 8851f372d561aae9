"""A front-end by itself: python perceive.py frontend=tinysam frontend.tinysam.checkpoint=... source=image.png."""

import json
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict


@app("perceive")
def main(cfg: DictConfig) -> None:
    import imageio.v3 as imageio

    from policies.tinyvla.front_ends import make_front_end
    from robot_io.sources import is_moving, pictures_of
    from tinyvla.errors import UserError
    from tinyvla.files import write_whole

    front_ends, source = as_dict(cfg.frontend), str(cfg.source)
    if len(front_ends) != 1:
        raise UserError("give one front-end to look with, as in frontend=tinysam")
    (name, options), request = *front_ends.items(), as_dict(cfg.request)
    front_end = make_front_end(name, options)
    if source == "sim":
        from envs.scenes import open_scenes

        pictures = iter([open_scenes("table", "test", 1, seed=cfg.seed).images[0]])
    else:
        pictures = pictures_of(source, cfg.frames)
    found = [
        front_end.find(picture, **{key: value for key, value in request.items() if value is not None})
        for picture in pictures
    ]
    output = Path(cfg.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if is_moving(source):
        output = output.with_suffix(".mp4")
        imageio.imwrite(output, np.stack([each.picture for each in found]), fps=cfg.fps)
    else:
        imageio.imwrite(output, found[0].picture)
    records = [each.records for each in found]
    write_whole(output.with_suffix(".json"), json.dumps(records if is_moving(source) else records[0], indent=1))
    for record in records[-1]:
        print(json.dumps(record))
    print(output)


if __name__ == "__main__":
    main()
