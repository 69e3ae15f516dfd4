"""Studies: questions put to the library by name, each answered with a table and pictures that can be made again."""
