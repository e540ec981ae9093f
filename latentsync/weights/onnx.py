"""Where ONNX Runtime computes: on the GPU if its build can, and then nowhere else."""

from typing import Any


def providers() -> list[str]:
    """The execution providers to ask for, best first; TensorRT is left out, since it would compile for minutes."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def require_started(session: Any, wanted: list[str]) -> None:
    """Refuse a session that ONNX Runtime started on the CPU because it could not load the GPU's libraries.

    Raises:
        ValueError: it runs on another provider than the first that was wanted.
    """
    started = session.get_providers()
    if started[0] != wanted[0]:
        raise ValueError(
            f"ONNX Runtime knows {wanted[0]} but could not start it here and would run on {started[0]}; install the "
            "CUDA libraries of its version, or the package onnxruntime instead of onnxruntime-gpu."
        )
