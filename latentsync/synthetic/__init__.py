"""Synthetic talkers: videos with known ground truth."""
