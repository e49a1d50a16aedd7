"""Records on disk: schema, shards, staging, groups and checks."""
