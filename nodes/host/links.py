"""Which inputs of a node are wired, which a node that executes cannot see in their values."""

from __future__ import annotations

from typing import Any


def wired(dynprompt: Any) -> frozenset[str]:
    """Names of the inputs of the node that is executing which are links.

    Args:
        dynprompt: the node's ``Hidden.dynprompt``, which does not enter ComfyUI's cache key.
    """
    from comfy_execution.graph_utils import is_link
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    if context is None or dynprompt is None or not dynprompt.has_node(context.node_id):
        return frozenset()
    inputs = dynprompt.get_node(context.node_id)["inputs"]
    return frozenset(name for name, value in inputs.items() if is_link(value))
