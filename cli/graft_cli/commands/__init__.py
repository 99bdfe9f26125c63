"""Commands, one file each: parse, make one library call, print."""
