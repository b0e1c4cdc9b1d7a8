"""Errors a person gets to read, named by what is to be done about them."""

from __future__ import annotations


class HeadraceError(Exception):
    """Something headrace can't go on with. The message says what happened, where, and what to do."""

    exit_code = 1


class SettingsError(HeadraceError):
    """Settings that can't be started with; the message lists all of them."""

    exit_code = 2


class HaltError(HeadraceError):
    """One partition can't be kept right and stops; the others go on."""
