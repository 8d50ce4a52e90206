"""Captions a folder of images: the guide's name for ``python -m trainer caption``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from trainer.__main__ import main

    raise SystemExit(main(["caption", *sys.argv[1:]]))
