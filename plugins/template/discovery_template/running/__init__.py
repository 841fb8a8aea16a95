"""A program of the operator's: `commands` fills in the arguments of commands, `requests` asks by HTTP, `reloading`
makes the program read its files again, and `proving` waits until the program shows that it has.
"""
