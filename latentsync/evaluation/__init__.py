"""Measurements on videos and the figures made of them."""
