"""The metrics, one file a family. Libraries compute them; the protocol makes the choices."""
