"""The files and the memory that the processes of a host share."""
