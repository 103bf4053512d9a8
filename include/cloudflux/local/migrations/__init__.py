"""`./cloudflux plans`, `plan`, `undo` and `reconcile`: what is moved, what was, and how it is taken back."""
