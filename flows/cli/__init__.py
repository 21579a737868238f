"""The verbs of the command, the options that they take, and how help and tables read."""
