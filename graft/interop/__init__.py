"""Other tools' formats: one small file of pure functions each, registered in the tables of `formats`."""
