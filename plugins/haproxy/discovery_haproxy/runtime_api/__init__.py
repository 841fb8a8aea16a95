"""Changes of servers, certificates and maps through HAProxy's runtime API, in the same process, without a reload.

`planner` compares two texts, with the `checks` of servers, the `costs` of both ways and the `defects` of versions, and
`forecast` says what would be done. `reachability` makes checks, `commands` words the steps of a plan, `certificates`
and `maps` the rest, `connection` sends commands, `execution` executes a plan and `live_files` sets contents,
`read_back` reads servers, `deletion` deletes removed servers, and `live_servers` joins these. `drift` compares live
servers with a text, `verifying` does that every few seconds, and `reports` tells what was found.
"""
