"""Pages, figures and tables that show what was made."""
