"""The ways in: the command line, batches, the page. They may import everything, and nothing else imports them."""
