"""Containment of refused items: an offending service, bind or setting serves in its last accepted form.

`forms` are the forms of a part, `composing` builds a configuration from accepted and present parts, `blaming` names the
parts that HAProxy's alerts are about, `search` finds the newest combination that HAProxy accepts, `records` keeps what
was accepted, and `containment` joins these for the consumer.
"""
