"""The daemon: its configuration, what it starts, reloads and stops, and what it shows of itself."""
