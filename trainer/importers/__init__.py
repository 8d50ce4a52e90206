"""Settings of other trainers, read as ours: one file a trainer. What has no counterpart is told, key by key."""
