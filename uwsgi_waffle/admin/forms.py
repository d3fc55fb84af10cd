"""The one door to Flask-WTF: forms that nobody else's page can send, and tokens for requests."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flask import current_app
from flask_wtf import FlaskForm  # type: ignore[import-untyped]
from flask_wtf.csrf import generate_csrf, validate_csrf  # type: ignore[import-untyped]
from wtforms import HiddenField, TextAreaField, ValidationError  # type: ignore[import-untyped]
from wtforms.validators import Length  # type: ignore[import-untyped]

from uwsgi_waffle.errors import ConfigError

__all__ = ["ChangeForm", "check_secret_key", "digest", "has_valid_token", "is_digest_of", "token"]

#: Longest comment that the history takes.
_MAX_COMMENT = 10_000


class ChangeForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
    """What every form of these pages holds beside the settings."""

    class Meta(FlaskForm.Meta):  # type: ignore[misc]  # (as above)
        """Check the token whatever ``WTF_CSRF_ENABLED`` says: these pages change a running app."""

        csrf = True

    #: The revision that the form was made from.
    revision = HiddenField()
    comment = TextAreaField("Why? (optional)", validators=[Length(max=_MAX_COMMENT)])

    def problems(self) -> list[str]:
        """Return what is wrong with what was sent, in sentences."""
        if self.validate():
            return []
        if self.csrf_token.errors:
            message = (
                "This page was open for too long, or did not come from here, so nothing was "
                "saved. Look it over and send it again."
            )
            return [message]
        return [f"Comment: {error}" for error in self.comment.errors]

    @property
    def is_forged(self) -> bool:
        """Whether the token was missing or wrong; ask after :meth:`problems`."""
        return bool(self.csrf_token.errors)

    @property
    def made_from(self) -> int:
        """The revision that the form was made from; 0, older than all, where it is no number."""
        text = self.revision.data or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else 0


#: SQL's own integers end there.
_MAX_DIGITS = 19


def check_secret_key() -> None:
    """Refuse to make a form that could not be told from a forged one.

    :raises ConfigError: the application has no key to sign tokens with
    """
    if not (current_app.config.get("WTF_CSRF_SECRET_KEY") or current_app.secret_key):
        message = (
            "SECRET_KEY is not set, so forms cannot be protected against other sites. Set "
            "app.config['SECRET_KEY'] to a random text that all processes share, such as the "
            "output of `python -c 'import secrets; print(secrets.token_hex())'`."
        )
        raise ConfigError(message, key="SECRET_KEY")


def token() -> str:
    """Return a token for this session."""
    text: str = generate_csrf()
    return text


def has_valid_token(given: str | None) -> bool:
    """Return whether a token belongs to the session of the request."""
    try:
        check_secret_key()
        validate_csrf(given)
    except (ValidationError, ConfigError):
        return False
    return True


def digest(name: str, text: str, salt: str | None = None) -> str:
    """Return what tells whether a secret is typed the same again, and nothing else of it."""
    salt = salt or secrets.token_hex(8)
    key = current_app.config.get("WTF_CSRF_SECRET_KEY") or current_app.secret_key or b""
    raw = key.encode() if isinstance(key, str) else key
    message = f"waffle:{salt}:{name}:{text}".encode("utf-8", "surrogatepass")
    return f"{salt}:{hmac.new(raw, message, hashlib.sha256).hexdigest()}"


def is_digest_of(given: str, name: str, text: str) -> bool:
    """Return whether a secret is the one that a digest was made of."""
    salt = given.partition(":")[0]
    return bool(salt) and hmac.compare_digest(given.encode(), digest(name, text, salt).encode())
