"""oneDNN's convolutions beside torch's own: a training step's time on the CPU, in one process, one step about.

    python benchmarks/convolutions.py --base FILE [--side 256] [--batch 1] [--pairs 6] [--threads N]

Forward and backward of a base model's denoiser with rank-8 LoRA, in fp32. One step about, because a machine's speed
wanders more from process to process than what is to be seen. ``ratio``: the median, over the pairs, of torch's own by
oneDNN's time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import peers  # noqa: E402

from trainer import families  # noqa: E402
from trainer.demo import BASE  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE, help="of the family sd15 (default: the embedded one)")
    parser.add_argument("--side", type=int, default=128, metavar="PIXELS")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unet: Any = families.detect(args.base).load_model(args.base, torch.float32).requires_grad_(False)
    linear = [name for name, module in unet.named_modules() if isinstance(module, torch.nn.Linear)]
    unet = peers.adapted(unet, [name for name in linear if "attn" in name or ".ff." in name]).train()
    noisy = torch.randn(args.batch, 4, args.side // 8, args.side // 8)
    hidden = torch.randn(args.batch, 77, unet.config.cross_attention_dim)

    def step(onednn: bool) -> float:
        with torch.backends.mkldnn.flags(enabled=onednn):
            began = time.process_time()
            unet(noisy, torch.full((args.batch,), 500), hidden).sample.square().mean().backward()
            return time.process_time() - began

    for onednn in (True, False):  # do not count: memory is new
        step(onednn)
    pairs = []
    for number in range(args.pairs):  # either of them is the first as often
        times = {onednn: step(onednn) for onednn in (number % 2 == 0, number % 2 == 1)}
        pairs.append((times[True], times[False]))
    ours, own = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"oneDNN {ours:.3f} CPU s a step, torch's own {own:.3f}, ratio {ratio:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
