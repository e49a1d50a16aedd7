"""Records: schema, shards, staging and groups."""
