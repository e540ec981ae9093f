"""Audio features: mel spectrograms, MFCC, voice activity, Whisper and its windows."""
