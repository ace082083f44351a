"""The page of ``streamprune serve``: a camera, what is kept of it, and answers about it.

Server code and the page's files; needs the extra ``[web]``.
"""
