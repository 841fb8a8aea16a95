"""Programs and commands: `commands` runs one to its end, `program` supervises one, `requests` asks by HTTP, `reloading`
makes a program read its files again, and `proving` waits until the program shows that it has.
"""
