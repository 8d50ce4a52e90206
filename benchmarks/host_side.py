"""What the pack costs inside ComfyUI: its import, the first word after queueing, Apply LoRA on a whole SD1.5.

    python -m benchmarks.host_side DIR [--base FILE]

A real ComfyUI on the CPU (found as the tests find it) trains three steps of full-size SD1.5 and draws with the LoRA.
``first word``: from the request to the first message of Train LoRA. ``apply``: the node's time, from its beginning to
that of the next node. Without ``--base`` a checkpoint with random weights is written into DIR (2.1 GB).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp  # pyright: ignore[reportMissingImports]

from tests.host.graphs import apply_lora, checkpoint_loader, demo_loader, picture, training
from tests.host.server import ComfyServer
from trainer.families import sd15_random

OURS = ("progress_text", "progress", "darkroom.run")


async def followed(server: ComfyServer, graph: dict[str, Any]) -> list[tuple[float, str, dict[str, Any]]]:
    """Runs a graph; what its client is told: seconds since the request, kind, content."""
    client, told = uuid.uuid4().hex, []
    address = server.url.replace("http", "ws", 1).rstrip("/")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{address}/ws?clientId={client}") as socket:
        began = time.perf_counter()
        await asyncio.to_thread(server.post, "/prompt", {"prompt": graph, "client_id": client})
        async for message in socket:
            now = time.perf_counter() - began
            if message.type is aiohttp.WSMsgType.BINARY:
                told.append((now, "progress_text", {"binary": True}))
                continue
            content = json.loads(message.data)
            told.append((now, content["type"], content.get("data") or {}))
            if content["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                break
    assert told[-1][1] == "execution_success", told[-1]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path)
    args = parser.parse_args()
    server = ComfyServer(args.folder, start=False)
    there = server.base / "models" / "checkpoints" / "sd15.safetensors"
    if not there.exists():
        shutil.copyfile(args.base, there) if args.base else sd15_random.write_random(there)
    for start in ("first", "second"):
        server.start()
        print(f"import, {start} start: {imported(server.log())} s", flush=True)
        if start == "first":
            server.stop()
    try:
        told = asyncio.run(followed(server, {**demo_loader(), **training(max_steps=1)}))
        first = next(now for now, kind, _ in told if kind in OURS)
        print(f"first word: {first:.2f} s after queueing (demo base, nothing loaded)")
        made = {
            **checkpoint_loader(there.name),
            **training(max_steps=3, gradient_checkpointing=True, batch_size=1),
            "apply": apply_lora(),
            **picture(model=["apply", 0], steps=1),
        }
        told = asyncio.run(followed(server, made))
        nodes = [(now, data.get("node")) for now, kind, data in told if kind == "executing"]
        begins = next(at for at, (_, node) in enumerate(nodes) if node == "apply")
        print(f"apply: {nodes[begins + 1][0] - nodes[begins][0]:.2f} s (full-size SD1.5, rank 4, all linear layers)")
    finally:
        server.stop()
    return 0


def imported(log: str) -> str:
    """What ComfyUI says that importing the pack took."""
    return re.findall(r"([\d.]+) seconds.*[Dd]arkroom", log)[-1]


if __name__ == "__main__":
    raise SystemExit(main())
