"""Whether a mouth and an audio track belong together, and how far they are apart."""
