"""``rotograd reproduce``: a table's runs, trained where they are not there yet, and shown."""
