"""Where arrays live: the mesh, the sharding rules, the feed from hosts to devices."""
