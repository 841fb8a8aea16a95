"""The HAProxy program and its processes, wherever they come from.

`binary` runs the program (version, check), `upgrades` notices a new one, `process` finds processes, `control_socket`
sends commands to a process, `log_drops` counts the lines of the log that a process dropped, `old_workers` the processes
that a reload has left, and `syslog` tells whether the server of the access log is there.
"""
