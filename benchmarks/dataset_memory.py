"""Memory that a data set of 50,000 images costs beyond one of 50: python benchmarks/dataset_memory.py

Every folder is scanned in a process of its own, as the node does it: ``fingerprint``, then ``scan``, whose result is
kept. The pictures are tiny PNG files of different bytes. Peak is the largest resident size of the process.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def main() -> None:
    """Makes the pictures, scans them, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, metavar="N", help="(default %(default)s)")
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.scan:
        measure(args.scan)
        return
    print(f"{'captions':>8} {'images':>7} {'peak MB':>8} {'bytes an image':>15} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as name:
        for captions in ("txt", "csv", "none"):
            least = 0.0
            for count in (50, args.images):
                folder = Path(name) / f"my style {captions} {count}"
                make(folder, count, captions)
                command = [sys.executable, str(Path(__file__)), "--scan", str(folder)]
                peak, seconds = map(float, subprocess.check_output(command, text=True).split())
                least = least or peak
                print(f"{captions:>8} {count:>7} {peak:8.1f} {1e6 * (peak - least) / count:15.0f} {seconds:8.1f}")


def make(folder: Path, count: int, captions: str) -> None:
    """Writes ``count`` pictures of 64 x 64 pixels, no two alike; captions in ``txt`` files, one ``csv``, or none."""
    folder.mkdir(parents=True)
    rows = ["filename,prompt"]
    for index in range(count):
        (folder / f"picture {index:05}.png").write_bytes(png(index))
        caption = f"a house on a hill, evening light, number {index}"
        if captions == "txt":
            (folder / f"picture {index:05}.txt").write_text(caption, encoding="utf-8")
        rows.append(f'picture {index:05}.png,"{caption}"')
    if captions == "csv":
        (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))  # what changed just now is not remembered


def png(number: int, side: int = 64) -> bytes:
    """A gray picture whose first pixels spell a number."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    first = number.to_bytes(4, "big") + bytes(side - 4)
    rows = b"\0" + first + (b"\0" + bytes(side)) * (side - 1)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def measure(folder: Path) -> None:
    """Scans a folder, and prints the process' peak in MB and the seconds."""
    import resource

    sys.path.insert(0, str(REPO))
    from trainer.dataset import fingerprint, scan

    start = time.perf_counter()
    fingerprint(folder)
    dataset = scan(folder, resolution=64)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    assert len(dataset.items) >= 50
    print(peak, seconds)


if __name__ == "__main__":
    main()
