"""What is kept: tables, the repository over them, encrypted objects, the vault of identities, the audit chain, migrations."""
