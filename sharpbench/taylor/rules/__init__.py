"""How each torch operation acts on a Taylor series, one file a family, each rule entered where it stands."""
