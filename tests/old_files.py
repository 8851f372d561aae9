"""Files written by version 0.1, see tests/data/before_0_2/README.md."""

import tarfile
from pathlib import Path

OLD_FILES = Path(__file__).parent / "data/before_0_2"


def extract_old_files(folder: Path, *names: str) -> Path:
    """Extract runs, checkpoints and datasets of version 0.1 into `folder`; without names, all of them."""
    for archive in sorted(OLD_FILES.glob("*.tar.xz")):
        if not names or archive.name.removesuffix(".tar.xz") in names:
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="data")
    return folder
