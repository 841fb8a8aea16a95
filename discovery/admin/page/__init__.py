"""The live page of the admin endpoint: HTML of what the daemon knows, and a stream of its changes. Reads only."""
