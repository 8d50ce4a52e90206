"""Run by ComfyUI's own Python: what loading a custom node costs, and what it brings.

    python startup_side.py <ComfyUI> <folder of the custom node>

Prints JSON: ``seconds`` of CPU time in ComfyUI's own ``load_custom_node``, whose wall time ComfyUI prints at its start,
and ``packages``, what was imported meanwhile and by nothing before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib import import_module
from typing import Any


def main(root: str, pack: str) -> None:
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, root)
    import comfy.options  # type: ignore[import-not-found]

    comfy.options.enable_args_parsing()
    # ComfyUI's own, and not those of the pack and of its tests.
    nodes: Any = import_module("nodes")
    server: Any = import_module("server")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    server.PromptServer(loop)
    loop.run_until_complete(nodes.init_builtin_extra_nodes())  # ComfyUI's own come first
    before, began = set(sys.modules), time.process_time()
    assert loop.run_until_complete(nodes.load_custom_node(pack))
    seconds = time.process_time() - began
    packages = {name.partition(".")[0] for name in set(sys.modules) - before}
    print(json.dumps({"seconds": seconds, "packages": sorted(packages)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
