"""The admin endpoint: the state of the daemon over HTTP. It changes nothing in the daemon."""
