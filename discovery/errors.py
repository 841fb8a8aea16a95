"""The exceptions that callers may meet. Every message names the thing and, where there is one, the way out."""


class DiscoveryError(Exception):
    """Any failure that the framework reports on purpose."""


class ConfigError(DiscoveryError):
    """The configuration or the command line is wrong; trying again will not help."""


class RecordError(DiscoveryError):
    """A registry record, or a backend about to become one, is not valid."""


class PluginError(DiscoveryError):
    """A plugin cannot be found or loaded."""


class CannotStartError(DiscoveryError):
    """A consumer or provider can never start as configured, so that it is not retried."""


class ApplyError(DiscoveryError):
    """A consumer could not apply a snapshot; what it had keeps serving, and the core tries again."""


class RegistryError(DiscoveryError):
    """The registry refused or failed an operation."""


class RegistryUnavailableError(RegistryError):
    """No member of the registry answers, or it has lost its quorum; trying again may help."""


class AccessDeniedError(RegistryError):
    """The registry knows us and refuses: a wrong user, password, certificate or missing permission."""


class OwnedByAnotherError(RegistryError):
    """The key belongs to another live owner, and was left alone."""


class LeaseLostError(RegistryError):
    """The lease has expired or was revoked; open another and put everything again."""


def describe(error: BaseException) -> str:
    """An exception in one line: our own in their own words, others with their type."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, DiscoveryError) else f"{type(error).__name__}: {text}".rstrip(": ")
