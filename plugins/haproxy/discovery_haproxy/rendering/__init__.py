"""Rendering of haproxy.cfg and of the map of routes from the options and a snapshot.

Everything is pure, except for reading templates. `selection`, `servers`, `runs`, `frontends`, `outline` and `sections`
compute what the templates print, `names`, `server_ids` and `quoting` make names, ids and values that HAProxy accepts,
`parts` and `render` make the text and `execution` runs the templates, `incremental` remembers what did not change,
`template_cache` keeps the templates compiled, `route_map` prints the map, and `held_files` tells which files commands
replace. `fragment` is for a file beside the operator's own files, and `includes` puts the user's files into the text.
"""
