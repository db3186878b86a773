"""What the puppet studio is measured by: plain functions from a `Studio` to rows of the table."""
