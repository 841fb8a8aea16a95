"""The options of the consumer: types, defaults, and combinations that are refused.

`config` holds the options, `binds` those of the addresses to listen on, `checks` those of health checks, `http` those
of requests and answers, `labels` those that come from a backend's labels, `values` the types of the values, and
`routing` the conflicts between services on one address.
"""
