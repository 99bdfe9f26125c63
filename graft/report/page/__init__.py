"""The page of `graft report`: HTML, its look, and the plots set into it."""
