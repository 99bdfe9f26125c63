"""Controls of a patch: what is left of its gain where its columns, its rows or its values are another's."""
