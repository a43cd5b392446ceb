"""The exceptions of this package: what happened, whether trying again can help, and what to do about it."""


class HtrError(Exception):
    """Base class of everything this package raises on purpose.

    Attributes:
        what: What happened, one sentence.
        advice: What the caller can do about it.
        retryable: Whether the same call can succeed later without any change.
        code: Name of the gRPC status code, or "" when the error did not come from a call.
    """

    retryable = False
    advice = ""

    def __init__(self, what: str, *, advice: str | None = None, code: str = "", retryable: bool | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        if advice is not None:
            self.advice = advice
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.what} {self.advice}".strip()


def of_system(error: OSError) -> str:
    """What an error of the operating system says, for people: the file, then what is wrong with it."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)


class ImageError(HtrError):
    """An image cannot be transcribed; other images are not affected.

    Attributes:
        reason: "empty" (no bytes or no pixels), "not_an_image" (no known signature), "truncated" (the file ends
            early), "too_large" (more pixels or bytes than allowed), "undecodable" (damaged, or a kind that is not
            supported), "unreadable" (the file cannot be opened) or "refused" (the server did not take it).
    """

    def __init__(self, reason: str, what: str, *, advice: str | None = None, code: str = "") -> None:
        super().__init__(what, advice=advice, code=code)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str], dict[str, object]]:
        # The default would call ImageError(what), so that an error could not come back from a worker process.
        return (type(self), (self.reason, self.what), self.__dict__)


PictureError = ImageError  # the name in version 0.1, which services catch


class MissingExtra(HtrError):
    """An optional library is needed and not installed."""


class AlphabetMismatch(HtrError, ValueError):
    """A lexicon, or the texts of a language model, are of another script than the model that answers writes."""

    advice = "Check the words (--lexicon) and texts (--lm), or which model is asked (--model)."


class ServerUnavailable(HtrError):
    """Nobody answers at the address, the connection broke, or the server is starting or stopping (UNAVAILABLE)."""

    retryable = True
    advice = "Check the address and that the server runs, or try again later."


class ServerBusy(HtrError):
    """The server has no free thread (RESOURCE_EXHAUSTED). A full queue of batches is `ServerUnavailable`."""

    retryable = True
    advice = "Send fewer requests at once, try again later, or give the server more threads or replicas."


class OutOfMemory(ServerBusy):
    """The server, or its GPU, lacks the memory for the request (RESOURCE_EXHAUSTED); a smaller one may fit."""

    advice = "Send smaller batches (batch_size) or fewer at once (in_flight), or give the server more memory."


class TimedOut(HtrError):
    """The deadline passed before the answer came (DEADLINE_EXCEEDED)."""

    retryable = True
    advice = "Raise the timeout, send smaller batches, or look at the load of the server."


class ModelNotFound(HtrError):
    """The server does not serve this model, version or label (NOT_FOUND; of a label INVALID_ARGUMENT)."""

    advice = "Compare model, version and label with what model_status() says (htr versions --server HOST:PORT)."


class ModelUnusable(HtrError):
    """The server has the model but cannot run it, or it lacks the signatures of this system (FAILED_PRECONDITION)."""

    advice = "The pushed version is broken or of another kind: roll back to the last good version."


class RequestRefused(HtrError):
    """The server calls the request invalid (INVALID_ARGUMENT); sending it again cannot help."""

    advice = "The same request will be refused again; see the server's words above."


class AccessDenied(HtrError):
    """The server wants other credentials (UNAUTHENTICATED, PERMISSION_DENIED)."""

    advice = "Check the TLS certificates and the metadata (tokens) that this client sends."


class RequestTooLarge(HtrError):
    """A message is larger than the limit of the client, the server or a proxy."""

    advice = "Send fewer or smaller images a request, or raise max_message_bytes here and on the server."


class ServerFault(HtrError):
    """The server failed in a way that is not the caller's fault (INTERNAL, UNKNOWN, DATA_LOSS ...)."""

    advice = "Look at the server's log."


class UnexpectedAnswer(HtrError):
    """The server answered with something that is not what the signatures of this system promise."""

    advice = "Check that the address, the model and the signature belong to this system."
