"""Consumers that write files: by a template (`template`), and for nginx, Apache httpd and Caddy.

`printing` renders templates and quotes what they print, `files` replaces files in transactions, `running` runs commands
and programs, `options` has the options, and `proxies` has the consumers `nginx`, `httpd` and `caddy`.
"""
