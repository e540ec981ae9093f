"""Weights: registry of pretrained files, download, safe reading and writing, foreign key names."""
