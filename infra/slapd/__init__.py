"""A directory server of our own: OpenLDAP's slapd with its configuration, kept running."""

from infra.slapd.configuration import Access, Consumer, Installed, LookUp, Tls, configuration
from infra.slapd.server import Slapd, answers, command, find_slapd, prepare

__all__ = [
    "Access",
    "Consumer",
    "Installed",
    "LookUp",
    "Slapd",
    "Tls",
    "answers",
    "command",
    "configuration",
    "find_slapd",
    "prepare",
]
