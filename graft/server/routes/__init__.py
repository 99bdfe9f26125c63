"""Routes, a file for each group of them: a request's form, the work, and the form of the answer."""
