"""Options of the consumers.

`commands` has what is common, `template` the options of the consumer `template`, and `proxy` those of `nginx`, `httpd`
and `caddy`.
"""
