"""The tutorial: six containers on two machines, of which one loses power while requests run.

`make tutorial` runs it, and so do the end-to-end tests in tests/deploy.
"""
