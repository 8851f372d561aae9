"""Make the moving image of the README from the videos of a run: python docs/make_animation.py outputs/<run> [file].

One successful episode per task, side by side, looped, as animated WebP of at most 1 MB.
"""

import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

OUTPUT = Path(__file__).parent / "images/policy.webp"
SIDE, CAPTION, TASKS, MAX_BYTES = 192, 22, 4, 1_000_000
PAUSE = 10  # frames for which the last image stands before the loop begins again
EVERY, FRAME_MS = 2, 100  # every second frame of videos at 20 Hz


def choose_videos(run_dir: Path) -> list[Path]:
    """First successful video under the right instruction of each task, at most TASKS."""
    videos: dict[str, Path] = {}
    for file in sorted((run_dir / "videos").glob("*-success.mp4")):
        if "-told-" not in file.name and "-instructed-" not in file.name:
            videos.setdefault(file.stem.rsplit("-", 2)[0], file)
    if not videos:
        sys.exit(f"error: {run_dir}/videos holds no successful episode; evaluate the run with videos=1 first")
    return list(videos.values())[:TASKS]


def read_frames(video: Path) -> list[Image.Image]:
    """Every second frame of a video, square, with the task's name below."""
    title = video.stem.rsplit("-", 2)[0].removesuffix("-v3").replace("-", " ")
    frames = []
    for frame in [*iio.imread(video, plugin="pyav")][::EVERY]:
        tile = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
        tile.paste(Image.fromarray(np.asarray(frame)).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
        ImageDraw.Draw(tile).text((6, SIDE + 4), title, fill="black", font=ImageFont.load_default(13))
        frames.append(tile)
    return frames


def main() -> None:
    """Write the animation at the best quality that fits in MAX_BYTES."""
    if len(sys.argv) not in (2, 3):
        sys.exit("error: give a run folder: python docs/make_animation.py outputs/<run>")
    output = Path(sys.argv[2]) if len(sys.argv) == 3 else OUTPUT
    episodes = [read_frames(video) for video in choose_videos(Path(sys.argv[1]))]
    images = []
    for time in range(max(map(len, episodes)) + PAUSE):
        image = Image.new("RGB", (len(episodes) * SIDE, SIDE + CAPTION))
        for number, frames in enumerate(episodes):
            image.paste(frames[min(time, len(frames) - 1)], (number * SIDE, 0))
        images.append(image)
    for quality in (80, 65, 50, 35, 20):
        images[0].save(output, save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0, quality=quality)
        if output.stat().st_size <= MAX_BYTES:
            break
    print(f"{output}: {len(images)} frames, {output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
