"""What every service of Trivium shares."""
