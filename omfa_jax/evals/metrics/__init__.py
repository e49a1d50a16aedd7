"""The metrics, one file per family. Libraries compute them; the protocol makes the choices."""
