"""TensorBoard's own program, for as long as somebody holds the other end of its stdin. A folder of its own, because
Python looks for modules in the folder of a program first.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    runpy.run_module("tensorboard.main", run_name="__main__")
