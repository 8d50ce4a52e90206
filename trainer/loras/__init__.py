"""What can be done with finished LoRA files: the commands ``inspect``, ``resize`` and ``merge``."""
