"""The exceptions that callers may meet. Every message names the thing and, where there is one, the way out."""

from typing import Self


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
    """The key belongs to another live owner, and was left alone. `owner` is its name, None if that is not known."""

    owner: str | None = None

    @classmethod
    def of(cls, key: str, holder: str, owner: str | None) -> Self:
        """The error that names the key, who holds it (`holder`, in words) and the way out."""
        error = cls(f"the record {key!r} belongs to {holder}: remove it there, choose another id, or force it")
        error.owner = owner
        return error


class LeaseLostError(RegistryError):
    """The lease has expired or was revoked; open another and put everything again."""


def describe(error: BaseException) -> str:
    """An exception in one line: our own in their own words, others with their type."""
    text = " ".join(str(error).split())
    return text if text and isinstance(error, DiscoveryError) else f"{type(error).__name__}: {text}".rstrip(": ")
