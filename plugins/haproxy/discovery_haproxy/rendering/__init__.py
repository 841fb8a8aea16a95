"""Rendering of haproxy.cfg and of the map of routes from the options and a snapshot.

Everything is pure, except for reading templates. `selection`, `servers` and `sections` compute what the templates
print, `names`, `server_ids` and `quoting` make names, ids and values that HAProxy accepts, `render` runs the templates,
`template_cache` keeps them compiled, `route_map` prints the map, and `held_files` tells which files commands replace.
"""
