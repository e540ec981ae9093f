"""The command line, one file for each command."""

import os

# Before NumPy is imported: its small matrices, one and more a frame, would make threads that spin while they wait.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
