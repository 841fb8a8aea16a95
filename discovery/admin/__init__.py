"""The admin endpoint: how the daemon is, told to whoever asks. Reads only."""
