"""Our networks as native MODELs of the host: conditions, layers, wrappers, memory."""
