"""The bridge to ComfyUI: the only files that touch ``folder_paths``, ``server`` and ``comfy``."""
