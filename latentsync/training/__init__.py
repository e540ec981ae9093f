"""The training loop, its data, its losses and its resumable state."""
