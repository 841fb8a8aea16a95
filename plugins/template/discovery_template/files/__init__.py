"""Files: `difference` shows what would change, and `forms` keeps the accepted forms of refused services."""
