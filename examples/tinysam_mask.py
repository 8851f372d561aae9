"""Ask TinySAM for the mask of the object at a pixel: python examples/tinysam_mask.py outputs/sam photo.png 120 80."""

import sys
from pathlib import Path

import imageio.v3 as imageio

from tinyvla.frontends import load_frontend, read_image


def main(checkpoint: str, source: str, x: float, y: float, output: str = "mask.png") -> None:
    tinysam = load_frontend(checkpoint)
    drawn, records = tinysam.find(read_image(source), points=[[x, y]])
    imageio.imwrite(output, drawn)  # the image with the mask drawn into it
    for record in records:  # COCO's format: box, area, and the mask as run lengths
        print({key: record[key] for key in ("bbox", "area", "score") if key in record})
    print(Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(float, sys.argv[3:5]), *sys.argv[5:6])
