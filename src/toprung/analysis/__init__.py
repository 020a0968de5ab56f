"""What a sweep found: standings while it runs, rankings when it is over."""
