"""Changes of servers through HAProxy's runtime API, in the same process, without a reload.

`planner` compares two texts, `commands` words the steps of a plan, `connection` sends commands, `read_back` compares
the servers of the process with a text, `checks` are the checks of servers, `reachability` makes them, and
`live_servers` joins them.
"""
