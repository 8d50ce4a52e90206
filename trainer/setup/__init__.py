"""Configs as files: one writer of commented YAML, the presets, the schema for editors, ``python -m trainer init``."""
