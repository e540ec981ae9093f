"""The page, `latentsync app`: jobs without Gradio, and what Gradio shows of them."""
