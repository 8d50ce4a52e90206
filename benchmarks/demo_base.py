"""How well the embedded base obeys its prompts, judged by the probe.

    python benchmarks/demo_base.py [--prompts 140] [--sheet FILE.png]

Every prompt names shape, colour, background and style; a share is that of the pictures in which the probe sees what
was asked for. The probe's own accuracy, on drawn pictures and as the autoencoder gives them back, is printed beside.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer import preview, sheet
from trainer.demo import BASE, probe, world

FIRST_SEED = 900_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=140)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    styles = list(world.STYLES)
    asked = [world.draw(FIRST_SEED + n, style=styles[n % len(styles)]).facts for n in range(args.prompts)]
    prompts = [world.caption_of(facts) for facts in asked]
    side = world.SIDE
    pictures = preview.draw(
        BASE, None, prompts, [0.0], width=side, height=side, steps=args.steps, guidance=args.guidance, seed=1
    )[:, 0]
    seen = probe.judge(pictures)
    print(f"{args.prompts} prompts, guidance {args.guidance:g}, {args.steps} steps")
    for question in probe.LABELS:
        right = [answer == getattr(facts, question) for answer, facts in zip(seen[question], asked, strict=True)]
        print(f"{question:>12}: {sum(right) / len(right):.3f}")
    for style in styles:
        of_it = [answer == style for answer, facts in zip(seen["style"], asked, strict=True) if facts.style == style]
        print(f"{style:>12}: {sum(of_it) / len(of_it):.3f} of its {len(of_it)} prompts in this style")
    for name in ("accuracy", "accuracy_reconstructed"):
        print(f"the probe's {name}: {json.loads(probe.header()[name])}")
    if args.sheet:
        images = [sheet.to_image(cell) for cell in pictures[: 4 * (len(pictures) // 4)]]
        rows = [images[i : i + 4] for i in range(0, len(images), 4)][:8]
        labels = [" / ".join(prompts[4 * i : 4 * i + 4]) for i in range(len(rows))]
        sheet.labelled_grid(rows, labels, styles, side=160).save(args.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
