"""The measures, one file a family. Libraries compute; the choices are the protocol's."""
