"""The text of a configuration file: words, servers, listeners, and the marks in its first lines. Pure functions.

`words` splits a line, `server_line` reads a `server` line, `configuration` splits a text into servers and the rest,
`chunks` and `server_runs` remember what follows from parts of a text that do not change, `contents` finds the digests
of certificates and maps, `listeners` finds the addresses that HAProxy listens on, `generation` and `seal` identify a
text, `edits` compares two texts, and `passwords` hides passwords. `neighbours` tells what a fragment depends on in
other files, and `inclusion` marks the files of the user's that stand in the text.
"""
