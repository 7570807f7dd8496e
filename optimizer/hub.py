"""Whether the Hugging Face hub answers, found out within seconds: its own libraries retry for half a minute."""

from __future__ import annotations

TIMEOUT_S = 5.0


class HubError(Exception):
    """The hub cannot be reached; whoever asked for it says to the user what that means and what to do."""


def require_hub() -> None:
    """Raise :class:`HubError`, within seconds, if the hub does not answer or HF_HUB_OFFLINE is set."""
    import httpx2
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except OfflineModeIsEnabled as exc:
        raise HubError("HF_HUB_OFFLINE is set, so the Hugging Face hub was not asked.") from exc
    except httpx2.HTTPError as exc:
        raise HubError(f"The Hugging Face hub is out of reach ({exc}).") from exc


def hub_answers() -> bool:
    """Whether the hub can be reached."""
    try:
        require_hub()
    except HubError:
        return False
    return True
