"""The guide's own command, ``python train.py --config my.yaml``: the same as ``python -m trainer train``."""

import sys
from pathlib import Path

# Not left to Python: a portable build ignores the folder of the script.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from trainer.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
