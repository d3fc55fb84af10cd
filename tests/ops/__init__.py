"""What is answered to people: the fleet, the status, the diagnosis, and whether they are true."""
