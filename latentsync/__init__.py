"""LatentSync Studio: from raw talking-head videos to lip-synced ones."""
