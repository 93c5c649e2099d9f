"""Every study of `moetap analyze`, written from its definition in plain loops and doubles.

A study is a function that gives `{table name: {column: list}}`. Undefined is None. Nothing here is fast, and nothing
is shared with the program: the two agree only where both read the definitions alike.
"""
