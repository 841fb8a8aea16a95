"""A HAProxy that another program runs.

`target` writes its configuration file and reloads it, `ownership` tells whether the file may be replaced, and `file`
reports and keeps the edits of a person.
"""
