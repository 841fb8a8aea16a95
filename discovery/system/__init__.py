"""What is between this project and the machine: files, sockets, signals, logs, child processes."""
