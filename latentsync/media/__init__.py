"""Video and audio files, by PyAV."""
