"""Pretrained files and ours: registry, download, safe reading and writing, key names of others."""
