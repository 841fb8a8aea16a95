"""The fleet: daemons that announce themselves in one registry, and tell each other how they are.

A daemon announces itself by a record under a lease, below a prefix that no consumer follows. Whoever looks at the fleet
asks one daemon, which asks all others; nobody asks unless somebody looks.
"""
