"""A HAProxy that the plugin runs itself.

`target` deploys configurations to it, `starting` starts or adopts it, `supervising` restarts it, `stopping` stops it,
`run_files` are its paths, `logpipe` forwards its log, and `server_states` and `state_file` carry the states of its
servers over a reload.
"""
