"""Routes that the labels `discovery.host` and `discovery.path` of backends ask for, for services without options.

`requests` reads labels, `decisions` says whose each route is, `ages` remembers which record was first, and `router`
adds the services to the configuration.
"""
