"""Commands of ``vitsom-fast``, one module for those that belong together; each adds its own to the command line."""
