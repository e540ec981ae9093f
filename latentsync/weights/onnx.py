"""Execution providers of ONNX Runtime: the GPU if this build supports it, without a silent fallback to the CPU."""

from typing import Any


def providers() -> list[str]:
    """Execution providers to request, best first; without TensorRT, which would compile for minutes."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def require_started(session: Any, wanted: list[str]) -> None:
    """Refuse a session that fell back to the CPU because ONNX Runtime could not load the GPU libraries.

    Raises:
        ValueError: the session does not run on the first provider of `wanted`.
    """
    started = session.get_providers()
    if started[0] != wanted[0]:
        raise ValueError(
            f"ONNX Runtime could not start {wanted[0]} and would run on {started[0]}; install the CUDA libraries of "
            "its version, or the package onnxruntime instead of onnxruntime-gpu."
        )
