"""HAProxy follows the registry."""
