"""LatentSync Studio: from raw talking-head videos to lip-synced ones."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentsync.generation.api import lip_sync, lip_sync_pairs, list_faces
    from latentsync.generation.session import LipSync, Result

__all__ = ["LipSync", "Result", "lip_sync", "lip_sync_pairs", "list_faces"]


def __getattr__(name: str) -> Any:
    """Import the API of generation when it is first used: the Snakefile imports this package at every parse."""
    if name in __all__:
        from latentsync.generation import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
