"""Files that are replaced together: `difference` shows what would change."""
