"""Forms that no other site's page can send, and tokens for requests: the one door to Flask-WTF."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flask import current_app
from flask_wtf import FlaskForm  # type: ignore[import-untyped]
from flask_wtf.csrf import validate_csrf  # type: ignore[import-untyped]
from wtforms import HiddenField, TextAreaField, ValidationError  # type: ignore[import-untyped]
from wtforms.validators import Length  # type: ignore[import-untyped]

from uwsgi_waffle.errors import ConfigError
from uwsgi_waffle.sql.changes import MAX_COMMENT_LENGTH

__all__ = [
    "ChangeForm",
    "as_revision",
    "check_secret_key",
    "digest",
    "has_valid_token",
    "is_digest_of",
]


class ChangeForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF has no types
    """The fields that every form of these pages has beside the settings."""

    class Meta(FlaskForm.Meta):  # type: ignore[misc]  # (as above)
        """Check the token whatever ``WTF_CSRF_ENABLED`` says: these pages change a running app."""

        csrf = True

    #: The revision that the form was made from.
    revision = HiddenField()
    comment = TextAreaField("Why? (optional)", validators=[Length(max=MAX_COMMENT_LENGTH)])

    def problems(self) -> list[str]:
        """Return what is wrong with the form, in sentences."""
        if self.validate():
            return []
        if self.csrf_token.errors:
            message = (
                "This page was open for too long, or came from another site, so nothing was "
                "saved. Check it and send it again."
            )
            return [message]
        return [f"Comment: {error}" for error in self.comment.errors]

    @property
    def is_forged(self) -> bool:
        """Whether the token was missing or wrong; ask after :meth:`problems`."""
        return bool(self.csrf_token.errors)

    @property
    def made_from(self) -> int:
        """The revision that the form was made from; 0, the oldest, where it is not a number."""
        return as_revision(self.revision.data or "")


def as_revision(text: str) -> int:
    """Return the revision that a form holds as a text; 0 where it is not a revision."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else 0


#: SQL's own integers end there.
_MAX_DIGITS = 19


def check_secret_key() -> None:
    """Refuse to make a form without a token.

    :raises ConfigError: the application has no key that signs tokens
    """
    if not (current_app.config.get("WTF_CSRF_SECRET_KEY") or current_app.secret_key):
        message = (
            "SECRET_KEY is not set, so forms cannot be protected against other sites. Set "
            "app.config['SECRET_KEY'] to a random text that all processes share, such as the "
            "output of `python -c 'import secrets; print(secrets.token_hex())'`."
        )
        raise ConfigError(message, key="SECRET_KEY")


def has_valid_token(given: str | None) -> bool:
    """Return whether a token belongs to the session of the request."""
    try:
        check_secret_key()
        validate_csrf(given)
    except (ValidationError, ConfigError):
        return False
    return True


def digest(name: str, text: str, salt: str | None = None) -> str:
    """Return a salted digest of a secret, which shows only whether it is typed the same again."""
    salt = salt or secrets.token_hex(8)
    key = current_app.config.get("WTF_CSRF_SECRET_KEY") or current_app.secret_key or b""
    raw = key.encode() if isinstance(key, str) else key
    message = f"waffle:{salt}:{name}:{text}".encode("utf-8", "surrogatepass")
    return f"{salt}:{hmac.new(raw, message, hashlib.sha256).hexdigest()}"


def is_digest_of(given: str, name: str, text: str) -> bool:
    """Return whether a digest was made of this secret."""
    salt = given.partition(":")[0]
    return bool(salt) and hmac.compare_digest(given.encode(), digest(name, text, salt).encode())
