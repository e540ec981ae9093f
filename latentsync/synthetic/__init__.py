"""Synthetic talkers: generated videos with known ground truth."""
