"""A HAProxy that another program runs.

`target` writes its configuration file and reloads it, `ownership` tells whether the file may be replaced, `file`
reports and keeps the edits of a person, and `file_lock` leaves the file to one daemon.
"""
