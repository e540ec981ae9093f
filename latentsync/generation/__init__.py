"""Lip-sync a video: from frames and audio to a written file."""
