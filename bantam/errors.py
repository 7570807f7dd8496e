"""The exception tree of all packages.

::

    BantamError                exit code 1: something failed
    ├── UserError              exit code 2: something that was asked for cannot be done
    │   ├── RecipeError        a recipe, profile or option is unknown or wrong
    │   ├── DataError          a data set is unknown, unreadable or unusable
    │   ├── ModelError         a model is unknown, unreachable or unusable
    │   └── RepositoryError    a model repository cannot be read or written
    ├── StageError             a stage of the optimizer failed
    │   ├── ParityError        an exported model does not compute what its source computes
    │   └── DiskFullError      no space left while writing
    ├── GateError              nothing may be published; the version before stays
    │   └── UnfaithfulError    what is served answers otherwise than what was measured
    ├── ArtifactError          an artifact folder is damaged or not an artifact
    ├── ContainerError         an image could not be built, or a container not be run
    ├── ServerError            the server did not start, or stopped
    └── ClientError            a request failed
        ├── InvalidInputError  the server refused the input
        ├── ModelNotFoundError no such model or version on the server
        ├── UnavailableError   the server cannot be reached or sheds load (after retries)
        └── TimeoutExceeded    no answer in time

Messages say what was got, what was expected and what to do, in that order. Exceptions of other libraries are
translated once, in the module that calls the library, with ``raise ... from exc``.
"""


class BantamError(Exception):
    """Root of all errors that Bantam raises on purpose."""

    exit_code = 1


class UserError(BantamError):
    """Something that was asked for cannot be done; the message says what can."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe, a profile or an option is unknown or wrong."""


class DataError(UserError):
    """A data set is unknown, unreadable or unusable."""


class ModelError(UserError):
    """A model is unknown, unreachable or unusable."""


class RepositoryError(UserError):
    """A model repository cannot be read or written."""


class StageError(BantamError):
    """A stage of the optimizer failed."""


class ParityError(StageError):
    """An exported model does not compute what its source computes."""


class DiskFullError(StageError):
    """There was no space left on the device while a file was written."""


class GateError(BantamError):
    """Nothing of what was made may be published; the version before stays. The message says what was missing."""


class UnfaithfulError(GateError):
    """What is served answers otherwise than what was measured in process."""


class ArtifactError(BantamError):
    """A folder is not an artifact, or its files are not those of its manifest."""


class ContainerError(BantamError):
    """An image could not be built, or a container not be run."""


class ServerError(BantamError):
    """The inference server did not start, or stopped."""


class ClientError(BantamError):
    """A request to the inference server failed."""


class InvalidInputError(ClientError):
    """The server refused the input: wrong type, wrong shape, not UTF-8."""


class ModelNotFoundError(ClientError):
    """The server has no such model or version."""


class UnavailableError(ClientError):
    """The server cannot be reached, or sheds load, also after the retries."""


class TimeoutExceeded(ClientError):
    """The server did not answer within the time allowed."""


def reason(exc: BaseException, most: int = 200) -> str:
    """What another library's exception says, in one line of at most ``most`` characters: its first cause's words."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0]}"[:most] if lines else type(exc).__name__
