"""The consumers `nginx`, `httpd` and `caddy`, with ready-made configurations.

`plan` says which requests go to which backends, `consumer` is what the three have in common, and each has a module.
"""
