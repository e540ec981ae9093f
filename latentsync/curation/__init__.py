"""Which clips are kept, and why: selection, splits, duplicates, the funnel, estimates."""
