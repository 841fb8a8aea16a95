"""The interface to the machine: files, sockets, signals, logs, child processes."""
