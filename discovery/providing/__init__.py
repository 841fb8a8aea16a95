"""From providers to the registry: what they find, its checks, and the registrations that follow."""
