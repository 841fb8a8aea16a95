"""Deployment of a configuration to a HAProxy: check, probe of the binds, replacement of the files, reload.

`target` is the protocol of a HAProxy that can be deployed to (`managed` and `external` implement it). `deploying` joins
the steps: `checking` checks a text, `bind_check` probes addresses as far as `vantage` sees them, `install` replaces
files, `activation` makes the files live by commands or by a reload, `digests` tells whether files changed, `reloading`
reloads, `refusals` remembers what was refused, and `faults` are the reasons.
"""
