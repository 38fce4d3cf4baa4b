"""What the documentation makes from the package itself when the site is built, so that the two cannot disagree."""
