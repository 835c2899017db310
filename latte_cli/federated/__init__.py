"""Federation: devices train the sub-models that fit them, a server puts what they learned together."""
