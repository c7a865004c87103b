"""``digitalid backup``: backups of an instance, made while it runs."""

from cli.backup.commands import backup

__all__ = ["backup"]
