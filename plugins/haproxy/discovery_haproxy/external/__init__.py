"""A HAProxy that another program runs.

`target` writes a configuration file or a fragment, changes servers and reloads HAProxy, `own_files` reads the files of
the operator's beside a fragment, `ownership` tells whether the file may be replaced, `file` reports and keeps the edits
of a person, and `file_lock` leaves the file to one daemon. `slots` writes no configuration, and fills servers of the
operator's.
"""
