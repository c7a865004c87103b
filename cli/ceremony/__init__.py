"""``digitalid ceremony``: key ceremonies, scripted, rehearsed, witnessed, verified offline."""

from cli.ceremony import after, lead, online
from cli.ceremony.group import ceremony

__all__ = ["after", "ceremony", "lead", "online"]
