"""The append-only Merkle log: audit trail and issuance transparency in one."""
