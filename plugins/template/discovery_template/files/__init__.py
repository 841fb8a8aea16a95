"""Files that are replaced together: `places` finds each, `transaction` replaces and restores them, `journal` keeps what
a crash would leave half done, and `difference` shows what would change.
"""
