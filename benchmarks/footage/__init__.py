"""The quality benchmark on the user's own videos: `python dev.py benchmark quality --footage FOLDER`.

`selection` cuts the clips, of what `videos` reads and `windows` finds; `run` makes and measures the videos, `measures`
and `networks` say by what; `report` and `pictures` show it.
"""
