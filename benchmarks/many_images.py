"""The cache of a large data set, its rate and its memory: python benchmarks/many_images.py --images 1000 10000 50000

For each number of pictures a data set is drawn (small pictures of colours that run into each other, with a caption
each), and ``python -m trainer cache`` encodes it with the embedded base, in a process of its own; then once more, when
nothing is missing. Peak is the largest resident size of that process. With ``--shards`` as many processes fill one
cache at the same time, as machines on a shared folder do: the time is that of all, the peak that of the largest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
MEASURED = "import resource, sys; sys.path.insert(0, sys.argv.pop(1)); from trainer.__main__ import main; "
MEASURED += "code = main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"


def main() -> None:
    """Draws, encodes, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 50_000], metavar="N")
    parser.add_argument("--side", type=int, default=128, metavar="PIXELS", help="(default %(default)s)")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="(default %(default)s)")
    args = parser.parse_args()
    print(f"{'images':>7} {'shards':>6} {'seconds':>8} {'images/s':>8} {'peak MB':>8} {'again s':>8} {'cache MB':>8}")
    for count in args.images:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            draw(folder / "pictures", count, args.side)
            config = folder / "config.yaml"
            config.write_text(
                f"base_model: {(REPO / 'trainer/demo/base.safetensors').as_posix()}\n"
                f"train_data_dir: {(folder / 'pictures').as_posix()}\noutput_dir: {(folder / 'run').as_posix()}\n"
                f"cache_dir: {(folder / 'cache').as_posix()}\nresolution: {args.side}\nbatch_size: 4\ndevice: cpu\n",
                encoding="utf-8",
            )
            seconds, peak = encode(config, args.shards)
            again, _ = encode(config, args.shards)
            size = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
            told = f"{seconds:8.1f} {count / seconds:8.1f} {peak:8.0f} {again:8.1f} {size / 1e6:8.0f}"
            print(f"{count:>7} {args.shards:>6} {told}", flush=True)


def draw(folder: Path, count: int, side: int) -> None:
    """Writes pictures, no two alike, and their captions."""
    folder.mkdir()
    for number in range(count):
        corners = numpy.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=numpy.uint8)
        picture = Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:06}.png", compress_level=1)
        (folder / f"{number:06}.txt").write_text(f"colours that run into each other, number {number}", "utf-8")


def encode(config: Path, shards: int) -> tuple[float, float]:
    """Seconds until all are done, with the start of Python; and the largest peak of one process in MB."""
    cores = os.cpu_count() or 1
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // shards))}
    begun = time.monotonic()
    commands = [
        [sys.executable, "-c", MEASURED, str(REPO), "cache", "--config", str(config), "--shard", f"{one}/{shards}"]
        for one in range(1, shards + 1)
    ]
    processes = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True, env=environment) for each in commands]
    said = [process.communicate()[0] for process in processes]
    seconds = time.monotonic() - begun
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            raise SystemExit(text)
    return seconds, max(int(text.split()[-1]) for text in said) / 1024


if __name__ == "__main__":
    main()
