"""Deployment of a configuration to a HAProxy: check, probe of the binds, replacement of the files, reload.

`target` is the protocol of a HAProxy that can be deployed to (`managed` and `external` implement it). `deploying` joins
the steps: `checking` checks a text, `bind_check` probes addresses as far as `vantage` sees them, `install` replaces
files, `on_disk` compares the installed files, `digests` tells whether other files changed, `activation` changes the
servers of the running HAProxy or else reloads it by `reloading`, `refusals` remembers what was refused,
`background_check` checks behind a change that needed no check, and `faults` are the reasons.
"""
