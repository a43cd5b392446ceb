"""What the errors of libraries for buckets mean, each of which has classes of its own."""

from __future__ import annotations

# What botocore raises where the environment has half of the credentials.
_INCOMPLETE = ("PartialCredentialsError", "ProfileNotFound")
_SET_THEM = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (docs/production.md#object-storage)"


class NoCredentials(OSError):
    """This process has none: nobody has set them, or the machine's role does not give them at the moment."""


def as_os_error(path: str, error: Exception) -> OSError:
    """The error to raise instead, which names the address.

    Args:
        path: Address of the file or folder.
        error: What the library has raised.

    Returns:
        FileNotFoundError, PermissionError or NoCredentials where it is one; else an OSError without a number.
    """
    kind, scheme = type(error).__name__, path.partition("://")[0]
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{path}: there is no such file, folder or bucket")
    if isinstance(error, PermissionError):
        return PermissionError(f"{path}: the store refuses the credentials of this process ({error})")
    if kind in _INCOMPLETE:
        return PermissionError(f"{path}: {error}: {_SET_THEM}")
    if kind == "NoCredentialsError":
        return NoCredentials(f"{path}: there are no credentials for {scheme}://: {_SET_THEM}")
    return OSError(f"{path}: {error}")
