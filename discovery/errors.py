"""The exceptions of the framework. Every message names the fault and, if there is a remedy, the remedy."""

from typing import Self


class DiscoveryError(Exception):
    """Any failure that the framework reports on purpose."""


class ConfigError(DiscoveryError):
    """The configuration or the command line is wrong. Another attempt fails, too."""


class RecordError(DiscoveryError):
    """A registry record is not valid, or a backend cannot be written as a record."""


class PluginError(DiscoveryError):
    """A plugin cannot be found or loaded."""


class CannotStartError(DiscoveryError):
    """A consumer or provider can never start with this configuration. The core does not try again."""


class ApplyError(DiscoveryError):
    """A consumer could not apply a snapshot. The state applied before stays, and the core tries again."""


class RegistryError(DiscoveryError):
    """The registry refused or failed an operation."""


class RegistryUnavailableError(RegistryError):
    """No member of the registry answers, or the registry has lost its quorum. Another attempt may succeed."""


class AccessDeniedError(RegistryError):
    """The registry refuses access: the user, password or certificate is wrong, or a permission is missing."""


class OwnedByAnotherError(RegistryError):
    """The key belongs to another live owner; its record is unchanged. `owner` is the owner's name, None if unknown."""

    owner: str | None = None

    @classmethod
    def of(cls, key: str, holder: str, owner: str | None) -> Self:
        """Return the error that names `key`, the `holder` of the key, and the way out.

        `holder` is text for a person. `owner` is the owner's name, None if unknown.
        """
        asking = "" if owner is None else "ask for it with `takeover`, "
        error = cls(f"the record {key!r} belongs to {holder}: remove it there, choose another id, {asking}or force it")
        error.owner = owner
        return error


class CannotBeAskedError(OwnedByAnotherError):
    """The key belongs to another, who cannot be asked to hand the key over. `owner` is None if unknown."""

    @classmethod
    def of(cls, key: str, holder: str, owner: str | None) -> Self:
        """Return the error that names `key` and the `holder` of the key, as text for a person; `owner` is a name."""
        error = cls(f"the record {key!r} belongs to {holder}, who cannot be asked for it: force it, or remove it there")
        error.owner = owner
        return error


class HandedOverError(OwnedByAnotherError):
    """Loss of a record to another owner that has asked for the record. `owner` is the name of the new owner."""

    @classmethod
    def of(cls, key: str, holder: str, owner: str | None) -> Self:
        """Return the error that names `key` and the new `holder`, as text for a person; `owner` is a name."""
        error = cls(f"the record {key!r} was handed over to {holder}, who asked for it")
        error.owner = owner
        return error


class LeaseLostError(RegistryError):
    """The lease has expired or was revoked. The caller opens another and puts every record again."""


def describe(error: BaseException) -> str:
    """Return `error` as a single line: the message of a DiscoveryError; type and message of any other exception."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - the exception may be a plugin's
        text = "an exception that cannot be shown"
    return text if text and isinstance(error, DiscoveryError) else f"{type(error).__name__}: {text}".rstrip(": ")
