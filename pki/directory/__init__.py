"""The LDAP directory: certificates and CRLs where every LDAP client finds them (RFC 4523)."""
