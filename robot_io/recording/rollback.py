"""Rollback of a dataset on disk to its last whole episode, after a full disk or a writer that was killed."""

import contextlib
import json
import os
import shutil
from pathlib import Path

_FOLDER = ".unfinished"  # of the dataset: copies of its metadata while an episode is written
_FILES = "files.json"
_METADATA = ("meta/info.json", "meta/stats.json", "meta/tasks.parquet")  # files that every episode changes
_PLACES = ("data", "videos", "images", "meta")  # folders in which an episode adds files
_TEMPORARY = "tmp*"  # folders of the encoders, in the dataset's folder


class Rollback:
    """Copies of a dataset's metadata and the list of its files, beside it on disk while an episode is written.

    Taking them back is a rename each, so that it needs no room on a full disk.

    Args:
        root: folder of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / _FOLDER

    @property
    def is_pending(self) -> bool:
        """True if an episode was begun and neither finished nor taken back."""
        return (self._folder / _FILES).is_file()

    def begin(self) -> None:
        """Remember the dataset as it is. Raises OSError if there is no room."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for name in _METADATA:
            if (self._root / name).is_file():
                shutil.copyfile(self._root / name, self._folder / Path(name).name)
        files = json.dumps([str(file.relative_to(self._root)) for file in self._files()])
        (self._folder / f"{_FILES}.tmp").write_text(files)
        os.replace(self._folder / f"{_FILES}.tmp", self._folder / _FILES)  # last: from now on it can be taken back

    def finish(self) -> None:
        """Forget it: the episode is whole."""
        (self._folder / _FILES).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def take_back(self) -> None:
        """Remove what an episode that is pending has added, and put the metadata back."""
        if not self.is_pending:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        before = set(json.loads((self._folder / _FILES).read_text()))
        for file in self._files():
            if str(file.relative_to(self._root)) not in before:
                file.unlink()
        for name in _METADATA:
            with contextlib.suppress(FileNotFoundError):  # put back already, or new in this episode
                os.replace(self._folder / Path(name).name, self._root / name)
        for folder in self._root.glob(_TEMPORARY):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
        self.finish()

    def _files(self) -> list[Path]:
        folders = [self._root / place for place in _PLACES]
        return [file for folder in folders for file in folder.rglob("*") if file.is_file() or file.is_symlink()]


def recover(root: Path) -> dict[str, int]:
    """Take back what a writer that was killed has left; the numbers of whole episodes and their frames."""
    Rollback(root).take_back()
    try:
        info = json.loads((root / _METADATA[0]).read_text())
    except (OSError, ValueError):
        return {"episodes": 0, "frames": 0}
    if not info["total_episodes"]:  # such a dataset cannot be opened
        shutil.rmtree(root, ignore_errors=True)
    return {"episodes": info["total_episodes"], "frames": info["total_frames"]}
