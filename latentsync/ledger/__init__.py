"""Ledgers: typed rows, files written whole or not at all, and work on one shard."""
