"""Encoding a data set beside the plain loop of diffusers' examples: CPU seconds and seconds on the clock.

    python benchmarks/caching.py --work DIR [--base FILE] [--images 200] [--side 128] [--rounds 3] [--device cpu]

``loop`` opens, resizes and crops a picture, encodes it and its caption, and saves both with torch.save; ``loop4`` takes
four at a time. ``ours`` is what ``python -m trainer cache`` does, into an empty cache, and ``again`` is the same when
nothing is missing. All see the same pictures, squares of twice the side, and use the same VAE and text encoders in
fp32. The ways take turns, each a process of its own. ``before`` is what does not grow with the pictures: imports,
loading the models, and in ours the hash of the base, which is remembered; all else is without it. Without ``--base`` it
is the embedded one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

WAYS = ("loop", "loop4", "ours", "again")  # again: of what ours has left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the pictures and what is encoded")
    parser.add_argument("--base", type=Path, default=REPO / "trainer/demo/base.safetensors")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="(default %(default)s)")
    parser.add_argument("--side", type=int, default=128, metavar="PIXELS", help="as encoded (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--device", default="cpu", help="that encodes (default %(default)s)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work = args.work.resolve()
    pictures = args.work / f"{args.images} of {2 * args.side}"
    if args.way:
        print(json.dumps(measure(args, pictures)))
        return 0
    args.work.mkdir(parents=True, exist_ok=True)
    if not pictures.exists():
        from many_images import draw

        draw(pictures, args.images, 2 * args.side)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(1, args.rounds + 1):
        for way in WAYS:
            found[way].append(call(args, way))
            told = found[way][-1]
            print(f"round {number} {way}: {told['cpu']:.2f} CPU s, {told['wall']:.2f} s", flush=True)
    report(found, args.images)
    return 0


def report(found: dict[str, list[dict[str, float]]], images: int) -> None:
    """A table: medians over the rounds, and the median of each round's ratio to ``loop``."""
    print("way    images a CPU s   CPU s (range)   / loop   images/s   s (range)   / loop   before, CPU s   peak")
    for way, rounds in found.items():
        columns = []
        for clock in ("cpu", "wall"):
            seconds = [one[clock] for one in rounds]
            ratios = [mine / one[clock] for mine, one in zip(seconds, found["loop"], strict=True)]
            middle = statistics.median(seconds)
            spread = f"{middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
            columns.append(f"{images / middle:.2f}   {spread}   {statistics.median(ratios):.3f}")
        before = statistics.median(one["before"] for one in rounds)
        peak = max(one["peak"] for one in rounds) / 2**20
        print(f"{way:<6} {'   '.join(columns)}   {before:.1f}   {peak:.0f} MiB")


def call(args: argparse.Namespace, way: str) -> dict[str, float]:
    """Measures one way in a process of its own."""
    command = [sys.executable, __file__, "--work", str(args.work), "--base", str(args.base), "--way", way]
    command += ["--images", str(args.images), "--side", str(args.side), "--device", args.device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, pictures: Path) -> dict[str, float]:
    """``cpu`` and ``wall`` seconds for all pictures and captions, ``before`` in CPU seconds, ``peak`` in bytes."""
    import trainer.__main__  # noqa: F401  (before torch: how its threads wait, the same for all ways)
    from trainer.gauge import process_peak

    if args.way in ("ours", "again"):
        work = ours(args, pictures)
    else:
        work = loop(args, pictures, 4 if args.way == "loop4" else 1)
    before, began = time.process_time(), time.monotonic()
    work()
    cpu, wall = time.process_time() - before, time.monotonic() - began
    return {"cpu": cpu, "wall": wall, "before": before, "peak": process_peak()}


def loop(args: argparse.Namespace, pictures: Path, batch: int) -> Callable[[], None]:
    """What diffusers' examples do with a data set, one file for each picture and for each caption."""
    import numpy
    import torch
    from PIL import Image, ImageOps

    from trainer import families

    encoders: Any = families.detect(args.base).load_encoders(args.base)
    for model in (encoders.vae, *encoders.text_models.values()):
        model.to(args.device)
    target = args.work / "plain"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()

    def tensor(file: Path) -> torch.Tensor:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("RGB"), (args.side, args.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(numpy.asarray(square, numpy.float32) / 127.5 - 1.0).permute(2, 0, 1)

    def work() -> None:
        files = sorted(pictures.glob("*.png"))
        for first in range(0, len(files), batch):
            group = files[first : first + batch]
            with torch.no_grad():
                encoded = encoders.vae.encode(torch.stack([tensor(file) for file in group]).to(args.device))
                # The embedded base has TAESD, whose latents are no distribution.
                latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.sample()
                captions = [encoders.tokenize(file.with_suffix(".txt").read_text("utf-8")) for file in group]
                hidden = [
                    model(torch.cat([ids[name] for ids in captions]).to(args.device)).last_hidden_state
                    for name, model in encoders.text_models.items()
                ]
            for index, file in enumerate(group):  # clones: a view would be saved with all of its batch
                torch.save(latents[index].clone().cpu(), target / f"{file.stem}.latents.pt")
                torch.save([each[index].clone().cpu() for each in hidden], target / f"{file.stem}.caption.pt")

    return work


def ours(args: argparse.Namespace, pictures: Path) -> Callable[[], None]:
    """The command ``cache``, of as many entries as the loop has and that of the empty caption."""
    from step_time import steps_alone

    from trainer import caching, families
    from trainer.files import ContentHashes

    # Without samples and validations, whose prompts the loop does not encode either.
    config = steps_alone(args.work, args.base.resolve(), pictures, 1, resolution=args.side, device=args.device)
    again = args.way == "again"
    if not again:
        shutil.rmtree(config.cache_dir, ignore_errors=True)
        config.cache_dir.mkdir()
        ContentHashes(config.cache_dir / "hashes.json")(config.base_model)
        family: Any = families.detect(args.base)
        encoders = family.load_encoders(args.base)
        family.load_encoders = lambda *_, **__: encoders  # loaded before, as in the loop

    def work() -> None:
        done = caching.fill(config, lambda event: None, lambda: False)
        assert (done.pictures, done.missing) == (0 if again else args.images, 0), done

    return work


if __name__ == "__main__":
    raise SystemExit(main())
