"""Files and memory that the processes of one host share. Rule: nothing here knows SQL or Redis."""
