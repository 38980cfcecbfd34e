"""What `explorer.py` is made of: drawings, networks, figures and the page."""
